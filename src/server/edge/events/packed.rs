//! Bodies that are packed with gzip or zstd.
//!
//! Owns: which codings there are, what unpacking may take. Leaves to others: what is in a body (`super`), and how large it may be
//! unpacked.
//!
//! Invariants: a body is unpacked as it is read, so what it would become is never in memory; at most [`UNPACKED_MAX`] are
//! unpacked at once, each with a window of at most 8 MiB, and further ones wait.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::{ReaderStream, StreamReader};

use super::super::BODY_PATIENCE;
use super::super::problem::Problem;

/// Bodies that are unpacked at once.
pub(super) const UNPACKED_MAX: usize = 64;
/// Bytes of a window of zstd, as a power of two: what RFC 9659 asks of a sender over HTTP. The format itself allows 128 MiB and more.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Bytes that are unpacked at a time.
const PIECE_BYTES: usize = 64 << 10;

enum Coding {
    Gzip,
    Zstd,
}

/// Turns to unpack.
pub(super) struct Unpacking(Arc<Semaphore>);

impl Default for Unpacking {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNPACKED_MAX)))
    }
}

impl Unpacking {
    /// A body as its sender packed it, or as it is if it did not.
    pub(super) async fn unpack(&self, headers: &HeaderMap, body: Body) -> Result<Body, Problem> {
        let Some(coding) = coding_of(headers)? else { return Ok(body) };
        let turn = self.0.clone().acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(BODY_PATIENCE, turn).await else {
            let detail = "packed bodies take all the memory that they may; send again a little later";
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

fn body_of(reader: impl AsyncRead + Send + 'static, turn: OwnedSemaphorePermit) -> Body {
    let reader = Turn { reader: Box::pin(reader), _turn: turn };
    Body::from_stream(ReaderStream::with_capacity(reader, PIECE_BYTES))
}

/// A reader that has its turn, until it is dropped.
struct Turn<R> {
    reader: Pin<Box<R>>,
    _turn: OwnedSemaphorePermit,
}

impl<R: AsyncRead> AsyncRead for Turn<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader.as_mut().poll_read(context, buffer)
    }
}
