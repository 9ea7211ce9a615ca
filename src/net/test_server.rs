//! A server that says what a test wants it to say, on a real socket.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::config;

/// What a test answers; `None` closes the connection with no answer.
pub(crate) type Answer = Option<Response<Full<Bytes>>>;

/// Ends with the value.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

impl TestServer {
    /// Answers each request, once its body is read, with what `handler` makes of it.
    pub(crate) async fn start<F>(handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), handler).await
    }

    /// The same, at a known address.
    pub(crate) async fn start_at<F>(address: SocketAddr, handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
    {
        Self::start_with(address, None, handler).await
    }

    pub(crate) async fn start_tls<F>(tls: rustls::ServerConfig, handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
    {
        let tls = TlsAcceptor::from(Arc::new(tls));
        Self::start_with("127.0.0.1:0".parse().unwrap(), Some(tls), handler).await
    }

    async fn start_with<F>(address: SocketAddr, tls: Option<TlsAcceptor>, handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(handler);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let handler = handler.clone();
                let tls = tls.clone();
                connections.spawn(async move {
                    let Some(tls) = tls else { return serve(tcp, false, handler).await };
                    // A client that does not trust us ends the handshake.
                    if let Ok(stream) = tls.accept(tcp).await {
                        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(stream, h2, handler).await;
                    }
                });
            }
        });
        Self { address, _task: task }
    }
}

async fn serve<S, F>(stream: S, h2: bool, handler: Arc<F>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            handler(Request::from_parts(head, body)).ok_or(std::fmt::Error)
        }
    });
    // How a connection ends is the client's to tell.
    let io = TokioIo::new(stream);
    if h2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

/// An answer with this status, content type and body.
pub(crate) fn answer(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let response = Response::builder().status(status).header("content-type", content_type);
    Some(response.body(Full::new(body.into())).unwrap())
}

/// The answer of Gitea that was recorded under this name.
pub(crate) fn recorded(name: &str) -> Answer {
    let exchange = exchange(name);
    let answer = &exchange["response"];
    let mut response =
        Response::builder().status(u16::try_from(answer["status"].as_u64().unwrap()).unwrap());
    for header in answer["headers"].as_array().unwrap() {
        response = response.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    Some(response.body(Full::new(body(answer))).unwrap())
}

/// Status and body of the answer that was recorded under this name.
pub(crate) fn recorded_answer(name: &str) -> (StatusCode, Bytes) {
    let exchange = exchange(name);
    let status = u16::try_from(exchange["response"]["status"].as_u64().unwrap()).unwrap();
    (StatusCode::from_u16(status).unwrap(), body(&exchange["response"]))
}

/// The body of the request that was recorded under this name.
pub(crate) fn recorded_request(name: &str) -> Bytes {
    body(&exchange(name)["request"])
}

fn exchange(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/data/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn body(half: &serde_json::Value) -> Bytes {
    match half["body"]["text"].as_str() {
        Some(text) => text.to_owned().into(),
        None => BASE64.decode(half["body"]["base64"].as_str().unwrap()).unwrap().into(),
    }
}

/// Settings for a Gitea at this address.
pub(crate) fn gitea(url: &str) -> config::Gitea {
    config::Gitea {
        url: url.parse().unwrap(),
        default: config::Served {
            section: "gitea".into(),
            scope: config::Scope::Instance,
            registration_token: Some(SecretString::from("registration-token")),
            api_token: None,
        },
        further: Vec::new(),
        ca_file: None,
        client: None,
        lost_wakeup_workaround: true,
    }
}

/// An authority of its own: its certificate in PEM, and a server's settings for `localhost`.
pub(crate) fn authority(protocols: &[&[u8]]) -> (String, rustls::ServerConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    params.distinguished_name.push(DnType::CommonName, BASE64.encode(key.public_key_raw()));
    let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    (issuer.pem(), config)
}
