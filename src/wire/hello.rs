//! The first frames of a stream: a client greets with its token, the server answers with its limits.
//!
//! Owns: the JSON of both and its strictness. Leaves to others: what a token grants (`server::ingest`).
//!
//! Invariants: unknown, missing and repeated fields are refused; a token is never shown by `Debug`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::{FrameHeader, FrameStatus, Schema, encode_frame};

/// The greeting of a client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The secret that grants sources.
    pub token: String,
    /// Name and version of the client, `name/version`.
    pub client: String,
    /// Whether the client reads verdict frames on this stream.
    pub verdicts: bool,
}

impl Hello {
    /// The whole frame.
    ///
    /// # Panics
    /// If token and client together do not fit 4 KiB.
    pub fn encode(&self) -> Vec<u8> {
        encode_json(Schema::HelloV1, self)
    }

    /// Reads the body of a checked frame.
    ///
    /// # Errors
    /// [`FrameStatus::SchemaMustBeExpected`] or [`FrameStatus::HelloMustBeValid`].
    pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Self, FrameStatus> {
        header.check_schema(Schema::HelloV1)?;
        serde_json::from_slice(body).map_err(|_| FrameStatus::HelloMustBeValid)
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hello {{ client: {:?}, verdicts: {} }}", self.client, self.verdicts)
    }
}

/// The server's answer to a hello that it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Name and version of the server, `tallymark/version`.
    pub server: String,
    /// Largest frame of a batch that the server takes, in bytes.
    pub batch_bytes_max: u32,
    /// Batches that may wait for their ack at one time.
    pub batches_in_flight_max: u32,
}

impl Welcome {
    /// The whole frame.
    ///
    /// # Panics
    /// If the server's name does not fit 4 KiB.
    pub fn encode(&self) -> Vec<u8> {
        encode_json(Schema::WelcomeV1, self)
    }

    /// Reads the body of a checked frame.
    ///
    /// # Errors
    /// [`FrameStatus::SchemaMustBeExpected`] or [`FrameStatus::WelcomeMustBeValid`].
    pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Self, FrameStatus> {
        header.check_schema(Schema::WelcomeV1)?;
        serde_json::from_slice(body).map_err(|_| FrameStatus::WelcomeMustBeValid)
    }
}

fn encode_json(schema: Schema, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(body).expect("texts and numbers always serialize");
    encode_frame(schema, 0, 0, 0, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::decode_frame;

    #[test]
    fn greetings_round_trip_and_hide_the_token() {
        let hello = Hello { token: "secret".into(), client: "test/1".into(), verdicts: true };
        let frame = hello.encode();
        let (header, body) = decode_frame(&frame).unwrap();
        assert_eq!(body, br#"{"token":"secret","client":"test/1","verdicts":true}"#);
        assert_eq!(Hello::decode(&header, body), Ok(hello.clone()));
        assert_eq!(Welcome::decode(&header, body), Err(FrameStatus::SchemaMustBeExpected));
        assert!(!format!("{hello:?}").contains("secret"));

        let welcome =
            Welcome { server: "tallymark/0.1.0".into(), batch_bytes_max: 1 << 20, batches_in_flight_max: 8 };
        let frame = welcome.encode();
        let (header, body) = decode_frame(&frame).unwrap();
        assert_eq!(Welcome::decode(&header, body), Ok(welcome));
    }

    #[test]
    fn a_hello_with_anything_unknown_missing_or_repeated_is_refused() {
        for body in [
            "",
            "{}",
            "null",
            r#"{"token":"t","client":"c"}"#,
            r#"{"token":"t","client":"c","verdicts":1}"#,
            r#"{"token":"t","client":"c","verdicts":true,"more":1}"#,
            r#"{"token":"t","token":"u","client":"c","verdicts":true}"#,
            r#"{"token":"t","client":"c","verdicts":true} x"#,
            "{\"token\":\"\u{0}\",\"client\":\"c\",\"verdicts\":true}",
        ] {
            let frame = encode_frame(Schema::HelloV1, 0, 0, 0, body.as_bytes());
            let (header, body) = decode_frame(&frame).unwrap();
            assert_eq!(Hello::decode(&header, body), Err(FrameStatus::HelloMustBeValid));
        }
    }
}
