//! What can go wrong between the broker and Gitea, told so that a reader knows what to check.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::http::uri::Authority;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::net::patient::BodyError;

type AnyError = Box<dyn Error + Send + Sync>;

/// A caller that waits for less learns nothing of Gitea, which may just be busy.
const TELLING: Duration = Duration::from_secs(2);

/// What is missing where the other end asks for a certificate.
pub(crate) const CLIENT_CERTIFICATE: &str = "where it asks for a client certificate, \
    gitea.client_cert_file and gitea.client_key_file must name one of an authority that it knows";

/// A request that got no answer. Its text is a sentence for the log and names what to check.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct UpstreamError {
    /// For metrics.
    pub kind: UpstreamErrorKind,
    /// False only where it is certain that no byte of the request went out.
    pub sent: bool,
    /// How long Gitea is left alone yet, where that is why.
    pub retry_after: Option<Duration>,
    /// What lies beneath; `None` where the broker itself gave up.
    #[source]
    pub source: Option<AnyError>,
    sentence: String,
}

/// The closed set of what can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamErrorKind {
    /// Gitea's host has no address.
    Dns,
    /// No TCP connection.
    Connect,
    /// No trust, or no TLS at all.
    Tls,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer.
    Reset,
    /// What came is not HTTP, or is not Gitea's answer: the page of a proxy, say.
    Protocol,
    /// Gitea gave no answer lately and is left alone for a moment.
    Open,
}

impl UpstreamErrorKind {
    /// All of them, so that metrics begin at zero.
    pub const ALL: [Self; 7] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::Open,
    ];

    /// The word for it in metrics and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Open => "open",
        }
    }
}

impl UpstreamError {
    /// No answer within `limit`.
    pub(super) fn too_slow(gitea: &Authority, limit: Duration, sent: bool) -> Self {
        let sentence = format!(
            "no answer from {gitea} within {limit:?}: is Gitea overloaded, or does a firewall swallow \
             the connection?"
        );
        Self { kind: UpstreamErrorKind::Timeout, sent, retry_after: None, source: None, sentence }
    }

    /// Gitea is left alone for that long yet.
    pub(super) fn open(gitea: &Authority, wait: Duration) -> Self {
        let sentence = format!(
            "{gitea} answered none of the last requests, so it is asked again only in a moment: is \
             Gitea up, and is gitea.url its address?"
        );
        let kind = UpstreamErrorKind::Open;
        Self { kind, sent: false, retry_after: Some(wait), source: None, sentence }
    }

    /// Whether Gitea gave no sign of life, as far as a caller that waited for `limit` can tell. A connection
    /// that breaks is one, and so is an answer in no language.
    pub(super) fn is_silence(&self, limit: Duration) -> bool {
        match self.kind {
            UpstreamErrorKind::Dns | UpstreamErrorKind::Connect | UpstreamErrorKind::Tls => true,
            UpstreamErrorKind::Timeout => self.source.is_some() || limit >= TELLING,
            UpstreamErrorKind::Reset | UpstreamErrorKind::Protocol | UpstreamErrorKind::Open => {
                false
            }
        }
    }

    /// Whether the fault lies with the request's own body, which broke off or could not be read.
    #[must_use]
    pub fn is_of_body(&self) -> bool {
        let error = self.source.as_ref().and_then(|error| cause::<hyper::Error>(&**error));
        error.is_some_and(hyper::Error::is_user)
    }

    /// Whether that body came to a stop.
    #[must_use]
    pub fn is_of_stalled_body(&self) -> bool {
        let error = self.source.as_ref().and_then(|error| cause::<BodyError>(&**error));
        matches!(error, Some(BodyError::Stalled(_)))
    }

    /// What the client says, told apart; `no_connection`: there was none to send on.
    pub(super) fn of(gitea: &Authority, tls: bool, no_connection: bool, error: AnyError) -> Self {
        // `canceled` means that the connection closed while the request still waited for it.
        let unwritten =
            no_connection || cause::<hyper::Error>(&*error).is_some_and(|e| e.is_canceled());
        let (kind, sentence) = tell(gitea, tls, no_connection, &*error);
        Self { kind, sent: !unwritten, retry_after: None, source: Some(error), sentence }
    }
}

fn tell(
    gitea: &Authority,
    tls: bool,
    no_connection: bool,
    error: &(dyn Error + 'static),
) -> (UpstreamErrorKind, String) {
    if let Some(tls) = cause::<rustls::Error>(error) {
        return (UpstreamErrorKind::Tls, format!("no TLS with {gitea}: {}", tell_tls(tls)));
    }
    let root = root(error);
    let io = cause::<io::Error>(error).map(io::Error::kind);
    if no_connection {
        // The connector's error type is private; its text is the only sign of a failed look-up.
        return if causes(error).any(|cause| cause.to_string() == "dns error") {
            let sentence = format!(
                "the host of {gitea} was not found ({root}): check gitea.url and this machine's DNS"
            );
            (UpstreamErrorKind::Dns, sentence)
        } else if io == Some(io::ErrorKind::TimedOut) {
            let sentence = format!(
                "no connection to {gitea} in time: check gitea.url, and whether a firewall swallows \
                 the connection"
            );
            (UpstreamErrorKind::Timeout, sentence)
        } else {
            let sentence = format!(
                "cannot connect to {gitea} ({root}): is Gitea up, and is gitea.url its address?"
            );
            (UpstreamErrorKind::Connect, sentence)
        };
    }
    if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        let sentence = format!(
            "{gitea} does not answer in HTTP ({root}): does gitea.url have the right port, and \
             http or https as it should?"
        );
        return (UpstreamErrorKind::Protocol, sentence);
    }
    let mut sentence = format!(
        "{gitea} closed the connection before it answered ({root}): look into Gitea's log, and into \
         that of a proxy in front of it"
    );
    // In TLS 1.3, the request is on its way before the other end has looked at that.
    if tls {
        sentence = format!("{sentence}; {CLIENT_CERTIFICATE}");
    }
    (UpstreamErrorKind::Reset, sentence)
}

fn tell_tls(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is signed by an unknown authority; set gitea.ca_file to a file with \
             that authority's certificate"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        ) => format!("{error}; set gitea.url to a name that the certificate holds"),
        rustls::Error::InvalidCertificate(
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        ) => format!("{error}; renew the certificate, or set this machine's clock"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it answers in plain text; should gitea.url begin with http://?".to_owned()
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => format!("{error}; {CLIENT_CERTIFICATE}"),
        other => format!("{other}; check gitea.url, gitea.ca_file and Gitea's certificate"),
    }
}

/// The error and all that lies beneath it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| beneath(*error))
}

/// An `io::Error` hides what it wraps from `source`, so it is asked for it.
fn beneath<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn root(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
