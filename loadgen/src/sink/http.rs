//! A raw HTTP sink: reads a request to the end of its body, answers 200.
//!
//! Owns: requests with a length, which is all that the generator sends.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 64 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A connection that ends has said everything.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(HEAD_BYTES_MAX);
    loop {
        let (head, mut left) = loop {
            if let Some(found) = parse(&buffer)? {
                break found;
            }
            if buffer.len() > HEAD_BYTES_MAX || stream.read_buf(&mut buffer).await? == 0 {
                bail!("no whole head came");
            }
        };
        let here = left.min(buffer.len() - head);
        buffer.drain(..head + here);
        left -= here;
        while left > 0 {
            buffer.clear();
            let read = stream.read_buf(&mut buffer).await?;
            if read == 0 {
                bail!("the body ends too early");
            }
            let here = left.min(read);
            buffer.drain(..here);
            left -= here;
        }
        stream.write_all(ANSWER).await?;
    }
}

/// Bytes of the head and of the body, once the head is whole.
fn parse(buffer: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(buffer)? else { return Ok(None) };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("a request has a length")?;
    Ok(Some((head, std::str::from_utf8(length.value)?.trim().parse()?)))
}
