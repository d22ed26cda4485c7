//! Little-endian fields one after the other: how the sections of a snapshot are written and read.
//!
//! Invariants: reading never panics and never takes memory for a length that the bytes do not have.

/// Fields in the making.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn i128(&mut self, value: i128) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A text with its length.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.u32(text.len() as u32); // texts of events and names are far below 4 GiB
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes; the fields start anew.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Fields that are read back. `None` means that the bytes end before the field does, or are none of its kind.
pub(crate) struct FieldReader<'b>(&'b [u8]);

impl<'b> FieldReader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn i128(&mut self) -> Option<i128> {
        self.array().map(i128::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'b str> {
        let bytes = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_cut_off_is_not() {
        let mut fields = Fields::default();
        fields.u8(1).u32(2).u64(3).i64(-4).u128(5).i128(-6).text("é");
        let bytes = fields.take();
        assert_eq!(fields.len(), 0);
        let read = |bytes: &[u8]| {
            let mut reader = FieldReader::new(bytes);
            let numbers =
                (reader.u8()?, reader.u32()?, reader.u64()?, reader.i64()?, reader.u128()?, reader.i128()?);
            let text = reader.text()?.to_string();
            reader.is_empty().then_some((numbers, text))
        };
        assert_eq!(read(&bytes), Some(((1, 2, 3, -4, 5, -6), "é".to_string())));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), None, "{end} bytes");
        }
        assert_eq!(FieldReader::new(&[255, 255, 255, 255, b'x']).text(), None);
        assert_eq!(FieldReader::new(&[1, 0, 0, 0, 255]).text(), None);
    }
}
