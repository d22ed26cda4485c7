//! The order of terms as tables.
