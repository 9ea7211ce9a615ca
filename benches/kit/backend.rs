//! What stands behind every proxy: as little of Gitea as the comparison needs, a thread a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use runner_broker::connect::messages::{
    DeclareResponse, RegisterRequest, RegisterResponse, Runner,
};
use runner_broker::connect::{Codec, decode, encode};

use super::wire;

/// Serves until the process ends. Its address.
pub(crate) fn start() -> io::Result<SocketAddr> {
    serve(|stream| answer_all(stream).map(|_| ()))
}

/// Sends back what comes: what the system itself takes for an exchange.
pub(crate) fn start_echo() -> io::Result<SocketAddr> {
    serve(|mut stream| {
        let mut piece = vec![0; 16 * 1024];
        loop {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                read => stream.write_all(&piece[..read])?,
            }
        }
    })
}

fn serve(
    answer: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_nodelay(true);
            // A proxy that closes an idle connection is no failure here; its client would see one.
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || answer(stream))
                .expect("the system has a thread for it");
        }
    });
    Ok(address)
}

struct Head {
    line: String,
    length: u64,
    chunked: bool,
    uuid: String,
    continues: bool,
}

fn answer_all(stream: TcpStream) -> io::Result<Option<()>> {
    let poll = wire::poll().response();
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let zeros = vec![0; 64 * 1024];
    loop {
        let Some(head) = read_head(&mut reader)? else { return Ok(None) };
        if head.continues {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let path = head.line.split(' ').nth(1).unwrap_or_default();
        if path.ends_with("/Register") {
            let mut message = vec![0; usize::try_from(head.length).map_err(io::Error::other)?];
            reader.read_exact(&mut message)?;
            out.write_all(&registered(&message)?)?;
            continue;
        }
        match head.chunked {
            true => skip_chunks(&mut reader)?,
            false => skip(&mut reader, head.length)?,
        }
        if path.ends_with("/FetchTask") {
            out.write_all(&poll)?;
        } else if path.ends_with("/Declare") {
            out.write_all(&declared(&head.uuid))?;
        } else if path.starts_with("/up") {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        } else if let Some(bytes) = path.strip_prefix("/down?bytes=") {
            let mut left: u64 = bytes.parse().map_err(io::Error::other)?;
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n")?;
            while left > 0 {
                let piece = left.min(zeros.len() as u64);
                out.write_all(&zeros[..piece as usize])?;
                left -= piece;
            }
        } else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        }
    }
}

/// Gitea's answer to whoever declares itself. The number stands at the uuid's end.
fn declared(uuid: &str) -> Vec<u8> {
    let id = uuid.rsplit('-').next().and_then(|end| i64::from_str_radix(end, 16).ok());
    let runner = Runner {
        id: id.unwrap_or_default() + 1,
        uuid: uuid.to_owned(),
        name: format!("runner-{uuid}"),
        labels: vec!["ubuntu-latest".to_owned()],
        ..Runner::default()
    };
    answer(&encode(Codec::Proto, &DeclareResponse { runner: Some(runner) }))
}

/// Gitea's answer to a registration.
fn registered(message: &[u8]) -> io::Result<Vec<u8>> {
    // Others than those who were never registered here, who count from zero.
    static NEXT: AtomicUsize = AtomicUsize::new(1 << 32);
    let asked: RegisterRequest = decode(Codec::Proto, message).map_err(io::Error::other)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let runner = Runner {
        id: number as i64 + 1,
        uuid: wire::uuid(number),
        token: format!("{number:040x}"),
        name: asked.name,
        version: asked.version,
        labels: asked.labels,
        ..Runner::default()
    };
    Ok(answer(&encode(Codec::Proto, &RegisterResponse { runner: Some(runner) })))
}

fn answer(message: &[u8]) -> Vec<u8> {
    let length = message.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), message].concat()
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut head = Head { line, length: 0, chunked: false, uuid: String::new(), continues: false };
    let mut header = String::new();
    loop {
        header.clear();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { return Ok(Some(head)) };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().map_err(io::Error::other)?,
            "transfer-encoding" => head.chunked = true,
            "x-runner-uuid" => head.uuid = value.to_owned(),
            "expect" => head.continues = true,
            _ => {}
        }
    }
}

fn skip(reader: &mut impl BufRead, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let there = reader.fill_buf()?.len() as u64;
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.consume(there.min(length) as usize);
        length -= there.min(length);
    }
    Ok(())
}

fn skip_chunks(reader: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        // With the line's end behind the piece.
        skip(reader, length + 2)?;
        if length == 0 {
            return Ok(());
        }
    }
}
