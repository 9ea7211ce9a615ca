//! `healthcheck`: whether the broker is ready, for container health checks.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{BrokerArgs, exchange, request};
use super::{Failure, block_on};
use crate::config::Admin;

/// Exit with 0 when the broker is ready, for container health checks
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
}

/// How long all of it may take: health checks are asked for often, and give up soon.
const LIMIT: Duration = Duration::from_secs(3);

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let broker = args.broker.broker()?;
    // Who names a socket or a URL means that broker and no other.
    let named = args.broker.socket.is_some() || args.broker.url.is_some();
    let over_tcp = !named && broker.socket().is_some_and(|socket| !socket.exists());
    let answer = block_on(async {
        if over_tcp {
            let (admin, _) = args.broker.settings.admin()?;
            match &admin.tls {
                None => tcp(admin.listen).await,
                Some(_) => Err(Failure::new(Failure::UNAVAILABLE, over_tls(&admin))),
            }
        } else {
            broker.raw(Method::GET, "/readyz", LIMIT).await
        }
    })
    .map_err(one_line)?;
    if answer.status() == StatusCode::OK {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer.body()).trim().replace('\n', "; ");
    Err(one_line(Failure::new(Failure::UNAVAILABLE, format!("the broker is not ready: {text}"))))
}

/// Only who asks knows by which name the certificate is to be checked.
fn over_tls(admin: &Admin) -> String {
    format!(
        "no broker runs here: there is no socket {}; to ask its admin listener, which speaks TLS, name it \
         as its certificate does: --url https://NAME:{}, with --ca-file for an authority of your own",
        admin.socket.display(),
        admin.listen.port()
    )
}

async fn tcp(listen: SocketAddr) -> Result<Response<Bytes>, Failure> {
    let address = dialled(listen);
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("no broker answers at {address} (admin.listen): {error}");
        Failure::new(Failure::UNAVAILABLE, message)
    };
    let answered = timeout(LIMIT, async {
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        let question = request(Method::GET, "/readyz", Bytes::new())?;
        exchange(stream, question, LIMIT).await.map_err(|error| failed(&error))
    });
    answered.await.unwrap_or_else(|_| Err(failed(&format!("not within {LIMIT:?}"))))
}

/// A listener on all addresses is dialled on loopback.
fn dialled(mut listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

/// Health checks show one line.
fn one_line(failure: Failure) -> Failure {
    let message = failure.message.replace('\n', "; ").replace(char::is_control, "\u{fffd}");
    Failure { code: failure.code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_dialled_on_loopback() {
        for (listen, said) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("10.0.0.7:8081", "10.0.0.7:8081"),
        ] {
            assert_eq!(dialled(listen.parse().unwrap()).to_string(), said);
        }
    }
}
