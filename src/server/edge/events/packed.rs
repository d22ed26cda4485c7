//! Bodies that are packed with gzip or zstd.
//!
//! Owns: which codings there are, what unpacking may take. Leaves to others: what is in a body (`super`), and how large it may be
//! unpacked.
//!
//! Invariants: a body is unpacked as it is read, so what it would become is never in memory; at most [`UNPACKED_MAX`] are
//! unpacked at once, at most [`TOKEN_UNPACKED_MAX`] of one token, each with a window of at most 8 MiB; further ones wait, and
//! tokens take turns.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};

use super::super::BODY_PATIENCE;
use super::super::problem::Problem;
use crate::shares::{Share, Shares};

/// Bodies that are unpacked at once.
const UNPACKED_MAX: usize = 64;
/// Those of one token: whoever holds as many as it may, however slowly they come, leaves room for others.
const TOKEN_UNPACKED_MAX: usize = 16;
/// Bytes of a window of zstd, as a power of two: what RFC 9659 asks of a sender over HTTP. The format itself allows 128 MiB and more.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes that are unpacked at a time.
const PIECE_BYTES: usize = 64 << 10;

enum Coding {
    Gzip,
    Zstd,
}

/// What a body takes of the shares: its window, which is a round of any token, so that tokens take turns body by body.
const WINDOW_BYTES: usize = 1 << ZSTD_WINDOW_LOG;
const _: () = assert!(WINDOW_BYTES >= domain::limits::BATCH_BYTES_MAX, "a body is a round");

/// Turns to unpack.
pub(super) struct Unpacking(Shares);

impl Default for Unpacking {
    fn default() -> Self {
        Self(Shares::new(UNPACKED_MAX * WINDOW_BYTES, TOKEN_UNPACKED_MAX * WINDOW_BYTES))
    }
}

impl Unpacking {
    /// The content of a body, whether its sender, who has the token, packed it or not.
    pub(super) async fn unpack(
        &self,
        token: &Arc<str>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Body, Problem> {
        let Some(coding) = coding_of(headers)? else { return Ok(body) };
        let turn = self.0.take(token, WINDOW_BYTES);
        let Ok(turn) = tokio::time::timeout(BODY_PATIENCE, turn).await else {
            let detail = "packed bodies, or those of this token, take all the memory that they may; send again a little later";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
        };
        let packed = StreamReader::new(body.map_err(io::Error::other).into_data_stream());
        Ok(match coding {
            Coding::Gzip => {
                let mut reader = GzipDecoder::new(packed);
                reader.multiple_members(true);
                body_of(reader, turn)
            }
            Coding::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
                let mut reader = ZstdDecoder::with_params(packed, &[window]);
                reader.multiple_members(true);
                body_of(reader, turn)
            }
        })
    }
}

fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>, Problem> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    let (Some(name), None) = (named.next(), named.next()) else {
        return if headers.contains_key(header::CONTENT_ENCODING) { Err(unknown()) } else { Ok(None) };
    };
    match name.as_bytes().to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Ok(Some(Coding::Gzip)),
        b"zstd" => Ok(Some(Coding::Zstd)),
        b"identity" => Ok(None),
        _ => Err(unknown()),
    }
}

fn unknown() -> Problem {
    let detail = "a body is packed once, with gzip or zstd, or not at all";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_must_be_known", detail)
}

fn body_of(reader: impl AsyncRead + Send + 'static, turn: Share) -> Body {
    let reader = Turn { reader: Box::pin(reader), _turn: turn };
    Body::from_stream(ReaderStream::with_capacity(reader, PIECE_BYTES))
}

/// A reader that has its turn, until it is dropped.
struct Turn<R> {
    reader: Pin<Box<R>>,
    _turn: Share,
}

impl<R: AsyncRead> AsyncRead for Turn<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader.as_mut().poll_read(context, buffer).map_err(told)
    }
}

/// The error that a sender is told: the library of zstd says of a window only that it is too large.
fn told(error: io::Error) -> io::Error {
    if error.to_string().contains("too much memory") {
        return io::Error::other(
            "a body packed with zstd has a window of at most 8 MiB: pack it without --ultra and --long",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    /// One token took all 64 turns with bodies that never came to their end, and nobody else's packed body was read.
    #[tokio::test]
    async fn a_token_that_holds_all_it_may_keeps_no_other_from_its_turn() {
        let unpacking = Unpacking::default();
        let zstd = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"))]);
        // Polled once: whoever has to wait has no turn.
        let at_once = async |token: &str, headers: &HeaderMap| {
            let token = Arc::from(token);
            let unpacked = unpacking.unpack(&token, headers, Body::empty());
            tokio::time::timeout(Duration::ZERO, unpacked).await.ok().map(Result::unwrap)
        };
        let mut held = Vec::new();
        for token in ["one", "two", "three", "four"] {
            let before = held.len();
            while let Some(body) = at_once(token, &zstd).await {
                held.push(body);
            }
            assert_eq!(held.len() - before, TOKEN_UNPACKED_MAX, "of {token}");
        }
        assert_eq!(held.len(), UNPACKED_MAX);
        assert!(at_once("five", &zstd).await.is_none(), "all are taken");
        assert!(at_once("one", &HeaderMap::new()).await.is_some(), "what is not packed needs no turn");
        held.pop();
        assert!(at_once("one", &zstd).await.is_none(), "it has all that it may have");
        assert!(at_once("five", &zstd).await.is_some(), "who waits at its limit holds nobody up");
    }
}
