//! The broker's admin address over TCP.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::ExposeSecret;

use super::super::Failure;
use super::super::show::plain;
use super::whole;
use crate::config::{self, Pair, Scope};
use crate::net::tls;

/// The way to a broker that a URL names.
pub(super) struct Remote {
    /// Without a slash at its end.
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Marked as sensitive, so that no `Debug` shows it.
    authorization: Option<HeaderValue>,
}

impl Remote {
    /// Prepares the way; nothing is dialled yet.
    pub(super) fn new(
        url: &str,
        ca_file: Option<&Path>,
        shown: Option<Pair>,
        token_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        let url = base(url)?;
        let authorization = token_file.map(authorization).transpose()?;
        let tls = tls::client_config(&trust(&url, ca_file, shown)).map_err(|error| {
            // The trust is made as for Gitea; only what gives it has other names here.
            let names = [
                ("gitea.ca_file", "--ca-file"),
                ("gitea.client_cert_file", "--client-cert"),
                ("gitea.client_key_file", "--client-key"),
                ("gitea.url", "--url"),
            ];
            let text = names
                .iter()
                .fold(error.to_string(), |text, (setting, flag)| text.replace(setting, flag));
            Failure::new(Failure::SETTINGS, text)
        })?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            base: url.to_string().trim_end_matches('/').to_owned(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            authorization,
        })
    }

    /// One request, whose path is below the base, and its answer.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        let uri = format!("{}{}", self.base, request.uri());
        *request.uri_mut() = uri.parse().map_err(|error| Failure::new(Failure::INTERNAL, error))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let answer = self.client.request(request).await.map_err(|error| {
            let remedy = if !error.is_connect() {
                "is --url the broker's admin address, with http or https as it should be?"
            } else if self.base.starts_with("https:") {
                "is the broker up, is --url its admin address, and does this machine, or --ca-file, \
                 know the authority of its certificate?"
            } else {
                "is the broker up, and is --url its admin address?"
            };
            self.failed(&error, remedy)
        })?;
        whole(answer, limit).await.map_err(|error| self.failed(error.as_ref(), "is it ending?"))
    }

    /// Why the broker does not let the command in, and what to do.
    pub(super) fn not_let_in(&self) -> String {
        if self.authorization.is_some() {
            format!(
                "the broker at {self} does not take this admin token: --admin-token-file must hold \
                 the same as the file that its setting admin.token_file names"
            )
        } else {
            format!(
                "the broker at {self} asks for its admin token: name a file that holds it with \
                 --admin-token-file"
            )
        }
    }

    fn failed(&self, error: &dyn Error, remedy: &str) -> Failure {
        let mut root = error;
        while let Some(beneath) = root.source() {
            root = beneath;
        }
        let message = format!("no answer from {self}: {}; {remedy}", plain(&root.to_string()));
        Failure::new(Failure::UNAVAILABLE, message)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// The text is repeated only where it holds no user name: a password may come with that.
fn base(url: &str) -> Result<Uri, Failure> {
    let wrong = |what| {
        let message = format!("--url {what}, for example https://broker.example.org");
        Failure::new(Failure::USAGE, message)
    };
    if url.contains('@') {
        return Err(wrong("takes an address without a user name"));
    }
    if url.contains(['?', '#']) {
        return Err(wrong("takes an address without a query"));
    }
    let uri: Uri = url.parse().map_err(|_| wrong("takes a web address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(wrong("takes an address with http:// or https://")),
    }
}

fn authorization(file: &Path) -> Result<HeaderValue, Failure> {
    let wrong = |text: String| {
        Failure::new(Failure::SETTINGS, format!("--admin-token-file: {}", plain(&text)))
    };
    let (token, _) = config::read_secret(file).map_err(wrong)?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| wrong(format!("{} holds no token", file.display())))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What says whom to trust at `url`, and what to show there.
fn trust(url: &Uri, ca_file: Option<&Path>, shown: Option<Pair>) -> config::Gitea {
    config::Gitea {
        url: url.clone(),
        default: config::Served {
            section: "gitea".into(),
            scope: Scope::Instance,
            registration_token: None,
            api_token: None,
        },
        further: Vec::new(),
        ca_file: ca_file.map(Into::into),
        client: shown,
        lost_wakeup_workaround: true,
    }
}
