//! The beginning of a connection to a listener that speaks TLS.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::certificates::Name;
use super::files::Part;
use super::server::{H2, Listener};

/// How often a failure is told at most; each of them is counted, and in the log of level debug.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What is said to a client that speaks plain HTTP.
pub(crate) const PLAIN_HTTP: &str = "this listener speaks TLS: begin the address with https://";

/// What a connection turned out to be.
pub(crate) enum Opened<S> {
    /// TLS.
    Tls {
        stream: Box<TlsStream<S>>,
        /// HTTP/2 was agreed on.
        http2: bool,
    },
    /// Plain HTTP: somebody has the wrong address.
    Plain(TcpStream),
    /// Nothing to go on with.
    Nothing,
}

/// The handshakes of one listener.
pub struct Handshakes {
    listener: Arc<Listener>,
    name: Name,
    failures: IntCounter,
    limit: Duration,
    told: Mutex<Option<Instant>>,
}

impl Handshakes {
    /// Of this listener; `failures` counts, and `limit` is how long a client may take.
    pub(crate) fn new(
        listener: Arc<Listener>,
        name: Name,
        failures: IntCounter,
        limit: Duration,
    ) -> Self {
        Self { listener, name, failures, limit, told: Mutex::default() }
    }

    /// Makes the handshake, on what `below` makes of the connection. It always ends in time.
    pub(crate) async fn open<S>(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        below: impl FnOnce(TcpStream) -> S,
    ) -> Opened<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let opened = timeout(self.limit, async {
            let mut first = [0];
            match stream.peek(&mut first).await {
                // Whoever only looks whether the port is open.
                Ok(0) | Err(_) => Ok(Opened::Nothing),
                // TLS begins with 22, a request with the name of its method.
                Ok(_) if first[0].is_ascii_alphabetic() => Ok(Opened::Plain(stream)),
                Ok(_) => {
                    let acceptor = TlsAcceptor::from(self.listener.config());
                    let stream = Box::new(acceptor.accept(below(stream)).await?);
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
                    Ok(Opened::Tls { stream, http2 })
                }
            }
        });
        let opened = opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &opened {
            Ok(Opened::Plain(_)) => self.failed(peer, "it speaks plain HTTP".into()),
            Ok(_) => {}
            Err(error) => self.failed(peer, self.reason(error)),
        }
        opened.unwrap_or(Opened::Nothing)
    }

    fn failed(&self, peer: IpAddr, reason: String) {
        self.failures.inc();
        let listener = self.name.as_str();
        let tell = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let tell = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
            if tell {
                *told = Some(Instant::now());
            }
            tell
        };
        if tell {
            warn!(listener, %peer, reason, "a client did not come in by TLS");
        } else {
            debug!(listener, %peer, reason, "a client did not come in by TLS");
        }
    }

    /// A sentence, with what to look at where that is clear.
    fn reason(&self, error: &io::Error) -> String {
        if error.kind() == io::ErrorKind::TimedOut {
            return format!("it did not come to an end within {:?}", self.limit);
        }
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::AlertReceived(alert)) if is_distrust(*alert) => format!(
                "the client does not trust the certificate in {}: give it the authority, or dial the \
                 broker by a name that the certificate holds",
                self.name.key(Part::Cert)
            ),
            Some(Error::NoCertificatesPresented) => format!(
                "the client showed no certificate, and {} asks for one",
                self.name.key(Part::ClientCa)
            ),
            Some(Error::InvalidCertificate(error)) => format!(
                "the client's certificate is not one that {} lets in: {error}",
                self.name.key(Part::ClientCa)
            ),
            Some(Error::PeerIncompatible(error)) => {
                format!(
                    "the client and the broker, which speaks TLS 1.2 and 1.3, have too little in \
                         common: {error:?}"
                )
            }
            _ => error.to_string(),
        }
    }
}

fn is_distrust(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
    )
}
