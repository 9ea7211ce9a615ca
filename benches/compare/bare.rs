//! The least that a proxy by the same HTTP library does: what the broker takes beyond it is its own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use http_body_util::Either;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Listens at one address and passes everything on to another, on one thread, until the process is ended.
pub(crate) fn serve(address: SocketAddr, backend: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(tcp);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let client = client.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                let target = format!("http://{backend}{path}").parse::<Uri>();
                *request.uri_mut() = target.unwrap_or_default();
                let answer = client.request(request);
                async move {
                    Ok::<_, Infallible>(match answer.await {
                        Ok(answer) => answer.map(Either::Left),
                        Err(_) => {
                            let mut bad = Response::new(Either::Right(Full::new(Bytes::new())));
                            *bad.status_mut() = StatusCode::BAD_GATEWAY;
                            bad
                        }
                    })
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    })
}
