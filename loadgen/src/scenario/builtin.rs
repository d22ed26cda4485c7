//! The scenarios that are built in: the files of `loadgen/scenarios/`.
//!
//! Invariants: the name is the file's; the first is what runs if none is named.

/// A scenario that needs no file.
pub(crate) struct BuiltIn {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(BuiltIn { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) }),*]
    };
}

pub(crate) const BUILT_IN: &[BuiltIn] = built_in![
    "line-rate",
    "sequenced",
    "steady",
    "http-batch",
    "http-single",
    "http-binary",
    "ndjson",
    "many-subjects",
    "dirty",
    "bursts",
    "reconnect-storm",
    "slow-consumers",
    "trace",
    "peer",
];
