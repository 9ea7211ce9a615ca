//! HTTP/2 by hand: a client that sends any frame.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of HEADERS and DATA; [`ACK`] is of SETTINGS and PING.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// One connection that TLS has agreed to be HTTP/2.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    next: u32,
}

/// What the other end sent.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frames {
    /// Dials, and begins with these settings (identifier and value). Headers of answers are never indexed, so
    /// that they can be read without a memory.
    pub(crate) async fn dial(
        address: &str,
        root: &CertificateDer<'static>,
        settings: &[(u16, u32)],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let mut config =
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("broker").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut frames = Self { stream, next: 1 };
        let no_table = [(1, 0)];
        let settings = no_table.iter().chain(settings);
        let payload: Vec<u8> = settings
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        frames.bytes(&[preface, &*frame(SETTINGS, 0, 0, &payload)].concat()).await.unwrap();
        frames
    }

    /// Sends bytes as they are; an error where the other end has left.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, write).await.expect("bytes are taken")
    }

    /// Sends a frame.
    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.bytes(&frame(kind, flags, stream, payload)).await
    }

    /// The number of a stream that is not used yet.
    pub(crate) fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Asks with these headers and this body; the number of the stream.
    pub(crate) async fn ask(&mut self, headers: &[(&str, &str)], body: Option<&str>) -> u32 {
        let stream = self.stream();
        let end = if body.is_none() { END_STREAM } else { 0 };
        let _ = self.send(HEADERS, END_HEADERS | end, stream, &block(headers)).await;
        if let Some(body) = body {
            let _ = self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
        }
        stream
    }

    /// The next frame; `None`: the connection has ended.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("a frame in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The answer on a stream in short, as [`super::answer`] has it; or "reset" or "goaway" with the name of the
    /// error; or "closed".
    pub(crate) async fn answer(&mut self, stream: u32) -> String {
        let (mut told, mut body) = (None, Vec::new());
        loop {
            let Some(frame) = self.frame().await else { return "closed".into() };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let _ = self.send(SETTINGS, ACK, 0, &[]).await;
                }
                GOAWAY => return format!("goaway {}", error(&frame.payload[4..8])),
                RST_STREAM if frame.stream == stream && told.is_none() => {
                    return format!("reset {}", error(&frame.payload));
                }
                HEADERS if frame.stream == stream => told = Some(status(&frame.payload)),
                DATA if frame.stream == stream => body.extend(&frame.payload),
                _ => continue,
            }
            if frame.flags & END_STREAM != 0
                && frame.stream == stream
                && let Some(status) = told
            {
                return super::in_short(status, &String::from_utf8_lossy(&body));
            }
        }
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers, each told in full and not indexed.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [number(0, 7, text.len()), text.as_bytes().to_vec()].concat();
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A number as HPACK has it, with this many bits in the first byte.
pub(crate) fn number(first: u8, bits: u32, number: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if number < most {
        return vec![first | u8::try_from(number).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    let mut rest = number - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The status, which is the first header of an answer.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come before.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    let block = &block[at..];
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        _ if block[1] & 0x80 == 0 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
        // Huffman's code: 0 to 2 have five bits, 3 to 9 six.
        _ => {
            let bits = block[2..6].iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
            let (mut left, mut status) = (32, 0);
            for _ in 0..3 {
                let five = (bits >> (left - 5)) & 31;
                let (digit, taken) = match five {
                    0..=2 => (five, 5),
                    _ => (((bits >> (left - 6)) & 63) - 0x19 + 3, 6),
                };
                left -= taken;
                status = status * 10 + digit;
            }
            u16::try_from(status).unwrap()
        }
    }
}

fn error(code: &[u8]) -> String {
    match u32::from_be_bytes(code.try_into().unwrap()) {
        0 => "no_error".into(),
        1 => "protocol_error".into(),
        3 => "flow_control_error".into(),
        6 => "frame_size_error".into(),
        9 => "compression_error".into(),
        11 => "enhance_your_calm".into(),
        other => other.to_string(),
    }
}
