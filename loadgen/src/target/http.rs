//! One connection of HTTP/1.1: a request, its answer, the next one.
//!
//! Owns: reading answers (length, chunks, end of connection), opening again. Leaves to others: what is sent (`request`).
//!
//! Invariants: an answer is read to its end before the next request; an answer larger than [`ANSWER_BYTES_MAX`] ends the
//! connection.
//!
//! It is written out here, and not taken from a client library, because the generator shares its cores with the server
//! that it measures; parsing heads and chunks is `httparse`'s.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::endpoint::{Bytes, Dialer};

const HEADERS_MAX: usize = 64;
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) struct Connection {
    dialer: Arc<Dialer>,
    stream: Option<Box<dyn Bytes>>,
    buffer: Vec<u8>,
}

/// The end of an answer's head, and how its body ends.
struct Head {
    status: u16,
    bytes: usize,
    body: BodyEnd,
    keeps_alive: bool,
}

enum BodyEnd {
    Length(usize),
    Chunks,
    Close,
}

/// An answer, its body as far as it came.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(dialer: Arc<Dialer>) -> Result<Self> {
        let mut connection = Self { dialer, stream: None, buffer: Vec::new() };
        connection.stream().await?;
        Ok(connection)
    }

    async fn stream(&mut self) -> Result<&mut Box<dyn Bytes>> {
        if self.stream.is_none() {
            self.buffer.clear();
            self.stream = Some(self.dialer.dial().await?);
        }
        Ok(self.stream.as_mut().expect("it was just opened"))
    }

    /// Sends a request; opens the connection first if it is closed.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<()> {
        let stream = self.stream().await?;
        let sent = async {
            stream.write_all(request).await?;
            stream.flush().await
        }
        .await;
        if sent.is_err() {
            self.break_off();
        }
        sent
    }

    /// Ends the connection in the middle of whatever goes on.
    pub(crate) fn break_off(&mut self) {
        self.stream = None;
    }

    /// Reads the answer of the request that was sent last.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        match self.read_answer().await {
            Ok((answer, keeps_alive)) => {
                if !keeps_alive {
                    self.break_off();
                }
                Ok(answer)
            }
            Err(error) => {
                self.break_off();
                Err(error)
            }
        }
    }

    async fn read_answer(&mut self) -> Result<(Answer, bool)> {
        let head = loop {
            match parse_head(&self.buffer)? {
                // What only announces an answer is not one.
                Some(head) if (100..200).contains(&head.status) => drop(self.buffer.drain(..head.bytes)),
                Some(head) => break head,
                None => self.read_more().await?,
            }
        };
        self.buffer.drain(..head.bytes);
        let body = match head.body {
            BodyEnd::Length(bytes) => {
                while self.buffer.len() < bytes {
                    self.read_more().await?;
                }
                self.buffer.drain(..bytes).collect()
            }
            BodyEnd::Chunks => self.read_chunks().await?,
            BodyEnd::Close => loop {
                match self.read_more().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        break std::mem::take(&mut self.buffer);
                    }
                    Err(error) => return Err(error),
                }
            },
        };
        Ok((Answer { status: head.status, body }, head.keeps_alive))
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (at, bytes) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete((at, bytes))) => break (at, bytes as usize),
                    Ok(httparse::Status::Partial) => self.read_more().await?,
                    Err(_) => return Err(broken("a chunk has no size")),
                }
            };
            if bytes == 0 {
                self.buffer.drain(..at);
                return self.read_trailer().await.map(|()| body);
            }
            while self.buffer.len() < at + bytes + 2 {
                self.read_more().await?;
            }
            body.extend_from_slice(&self.buffer[at..at + bytes]);
            self.buffer.drain(..at + bytes + 2);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(broken("the answer is too long"));
            }
        }
    }

    /// Lines up to an empty one.
    async fn read_trailer(&mut self) -> Result<()> {
        loop {
            match self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                Some(at) => {
                    self.buffer.drain(..at + 2);
                    if at == 0 {
                        return Ok(());
                    }
                }
                None => self.read_more().await?,
            }
        }
    }

    async fn read_more(&mut self) -> Result<()> {
        if self.buffer.len() > ANSWER_BYTES_MAX {
            return Err(broken("the answer is too long"));
        }
        let stream = self.stream.as_mut().ok_or_else(|| broken("no request was sent"))?;
        match stream.read_buf(&mut self.buffer).await? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection ended before the answer")),
            _ => Ok(()),
        }
    }
}

fn broken(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// The head of an answer, once all of it is there.
fn parse_head(buffer: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(broken("the answer is not HTTP/1.1")),
    };
    let status = response.code.expect("a complete head has a status");
    let mut body = BodyEnd::Close;
    let mut keeps_alive = response.version == Some(1);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") && !matches!(body, BodyEnd::Chunks) {
            let length = std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse().ok());
            body = BodyEnd::Length(length.ok_or_else(|| broken("the length of the answer is no number"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = BodyEnd::Chunks;
        } else if header.name.eq_ignore_ascii_case("connection") {
            keeps_alive &= !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    if matches!(status, 100..200 | 204 | 304) {
        body = BodyEnd::Length(0);
    }
    keeps_alive &= !matches!(body, BodyEnd::Close);
    Ok(Some(Head { status, bytes, body, keeps_alive }))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::target::endpoint::Endpoint;

    /// Answers of a peer, arriving in pieces of a size; then the connection ends.
    async fn check(said: &str, piece: usize, expected: &[(u16, &str)], leaves_open: bool) {
        let dialer = Arc::new(Dialer::new(Endpoint::parse("http://127.0.0.1:1/").unwrap(), b"").unwrap());
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut connection = Connection { dialer, stream: Some(Box::new(ours)), buffer: Vec::new() };
        let said = said.to_string();
        let peer = tokio::spawn(async move {
            for piece in said.as_bytes().chunks(piece) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        for (status, body) in expected {
            let answer = connection.answer().await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (*status, body.as_bytes()));
        }
        assert_eq!(connection.stream.is_some(), leaves_open);
        assert!(connection.answer().await.is_err(), "there is nothing more");
        peer.await.unwrap();
    }

    #[tokio::test]
    async fn answers_are_read_to_their_end_however_they_arrive() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let chunks = "HTTP/1.1 422 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nT: 1\r\n\r\n";
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        let hint = "HTTP/1.1 100 Continue\r\n\r\n";
        let close = "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
        let until_end = "HTTP/1.0 200 OK\r\n\r\nall of it";
        let row = [length, chunks, empty, hint, length].concat();
        for piece in [1, 2, 7, 1_000] {
            check(&row, piece, &[(200, "hello"), (422, "abcde"), (204, ""), (200, "hello")], true).await;
            check(close, piece, &[(503, "no")], false).await;
            check(until_end, piece, &[(200, "all of it")], false).await;
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_the_connection() {
        for said in [
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        ] {
            check(said, 1_000, &[], true).await;
        }
    }
}
