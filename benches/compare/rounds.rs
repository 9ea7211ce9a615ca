//! The measurements, round by round, the proxies by turns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tempfile::TempDir;

use super::kit::client::{self, Client, Target};
use super::kit::stats::quantile;
use super::kit::{backend, wire};
use super::proxies::{self, Instance, Proxy};

/// Connections that are never idle.
pub(crate) const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Requests a second, whatever becomes of those before.
pub(crate) const RATES: [u32; 3] = [200, 1000, 5000];
/// Idle connections by TLS.
pub(crate) const IDLE: [usize; 3] = [0, 64, 1000];
/// Connections that the requests at a fixed rate take turns on.
const OPEN_LOOP_CONNECTIONS: usize = 64;
/// Large bodies.
const BODY: u64 = 1 << 30;
/// Not measured, before each measurement.
const WARM_UP: Duration = Duration::from_millis(200);

/// Requests from connections that are never idle, in one round.
#[derive(Serialize)]
pub(crate) struct Requests {
    pub(crate) target: &'static str,
    pub(crate) tls: bool,
    pub(crate) connections: usize,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
}

/// Requests at a fixed rate, in all rounds.
#[derive(Serialize)]
pub(crate) struct Latency {
    pub(crate) target: &'static str,
    pub(crate) rate: u32,
    pub(crate) requests: usize,
    pub p50_seconds: f64,
    pub p99_seconds: f64,
    pub p999_seconds: f64,
}

/// Memory with idle connections, in one round.
#[derive(Serialize)]
pub(crate) struct Memory {
    pub(crate) target: &'static str,
    pub(crate) connections: usize,
    pub(crate) bytes: u64,
}

/// A large body, in one round.
#[derive(Serialize)]
pub(crate) struct Body {
    pub(crate) target: &'static str,
    pub(crate) upload: bool,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) memory_growth_bytes: u64,
}

/// What all measurements need.
pub(crate) struct Bench {
    pub(crate) proxies: Vec<Proxy>,
    backend: SocketAddr,
    echo: SocketAddr,
    tls: Arc<ClientConfig>,
    folder: TempDir,
}

/// One of those that are measured by turns.
struct Turn {
    name: &'static str,
    target: Target,
    instance: Option<Instance>,
}

impl Turn {
    fn cpu(&self) -> super::kit::usage::Cpu {
        self.instance.as_ref().map(|instance| instance.process.cpu()).unwrap_or_default()
    }
}

impl Bench {
    /// Starts the back end, and makes certificates.
    pub(crate) fn prepare(proxies: Vec<Proxy>) -> io::Result<Self> {
        let folder = TempDir::with_prefix("compare-")?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(io::Error::other)?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.path().join("cert.pem"), &cert)?;
        fs::write(folder.path().join("key.pem"), &key)?;
        fs::write(folder.path().join("both.pem"), cert + &key)?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(io::Error::other)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (backend, echo) = (backend::start()?, backend::start_echo()?);
        Ok(Self { proxies, backend, echo, tls: Arc::new(tls), folder })
    }

    fn start(&self, proxy: Proxy, tls: bool) -> io::Result<Turn> {
        let instance = proxies::start(proxy, tls, self.backend, self.folder.path())?;
        let tls = tls.then(|| Arc::clone(&self.tls));
        let target = Target { address: instance.address, tls, echoes: false };
        Ok(Turn { name: proxy.name(), target, instance: Some(instance) })
    }

    /// All proxies, and what is there without one.
    fn turns(&self, tls: bool) -> io::Result<Vec<Turn>> {
        let mut turns = self
            .proxies
            .iter()
            .filter(|proxy| proxy.speaks_tls() || !tls)
            .map(|proxy| self.start(*proxy, tls))
            .collect::<io::Result<Vec<_>>>()?;
        if !tls {
            let without = |name, address, echoes| {
                let target = Target { address, tls: None, echoes };
                Turn { name, target, instance: None }
            };
            turns.push(without("direct", self.backend, false));
            turns.push(without("TCP echo", self.echo, true));
        }
        Ok(turns)
    }

    /// CPU and rate of small requests.
    pub(crate) fn requests(&self, rounds: u32, time: Duration) -> io::Result<Vec<Requests>> {
        let mut all = Vec::new();
        for tls in [false, true] {
            let turns = self.turns(tls)?;
            for round in 0..rounds {
                for connections in CONNECTIONS {
                    told(
                        "requests",
                        round,
                        rounds,
                        &format!("{connections} connections, TLS: {tls}"),
                    );
                    for turn in by_turns(&turns, round) {
                        let mut clients = client::runners(&turn.target, connections)?;
                        client::closed_loop(&mut clients, WARM_UP)?;
                        let before = turn.cpu();
                        let (requests, took) = client::closed_loop(&mut clients, time)?;
                        let cpu = turn.cpu().since(before);
                        all.push(Requests {
                            target: turn.name,
                            tls,
                            connections,
                            requests,
                            seconds: took.as_secs_f64(),
                            user_seconds: cpu.user,
                            system_seconds: cpu.system,
                        });
                    }
                }
            }
            for instance in turns.iter().filter_map(|turn| turn.instance.as_ref()) {
                knows_its_runners(instance)?;
            }
        }
        Ok(all)
    }

    /// Time of small requests.
    pub(crate) fn latencies(&self, rounds: u32, time: Duration) -> io::Result<Vec<Latency>> {
        let turns = self.turns(false)?;
        let mut all = Vec::new();
        for rate in RATES {
            let mut times: Vec<Vec<f64>> = turns.iter().map(|_| Vec::new()).collect();
            for round in 0..rounds {
                told("latency", round, rounds, &format!("{rate} requests a second"));
                for turn in by_turns(&turns, round) {
                    let mut clients = client::runners(&turn.target, OPEN_LOOP_CONNECTIONS)?;
                    client::open_loop(&mut clients, rate, WARM_UP)?;
                    let place = turns.iter().position(|other| other.name == turn.name);
                    let times = &mut times[place.expect("it is one of them")];
                    times.extend(client::open_loop(&mut clients, rate, time)?);
                }
            }
            for (turn, mut times) in turns.iter().zip(times) {
                all.push(Latency {
                    target: turn.name,
                    rate,
                    requests: times.len(),
                    p50_seconds: quantile(&mut times, 0.5),
                    p99_seconds: quantile(&mut times, 0.99),
                    p999_seconds: quantile(&mut times, 0.999),
                });
            }
        }
        Ok(all)
    }

    /// Memory of a proxy that was just started, with connections by TLS that each made one request.
    pub(crate) fn memory(&self, rounds: u32) -> io::Result<Vec<Memory>> {
        let mut all = Vec::new();
        for round in 0..rounds {
            told("memory", round, rounds, &format!("{IDLE:?} idle connections"));
            for proxy in self.proxies.iter().filter(|proxy| proxy.speaks_tls()) {
                let turn = self.start(*proxy, true)?;
                let Some(instance) = &turn.instance else { continue };
                let mut clients: Vec<Client> = Vec::new();
                for connections in IDLE {
                    for runner in clients.len()..connections {
                        let mut client = Client::dial(&turn.target)?;
                        client.exchange(&wire::poll().request(runner))?;
                        clients.push(client);
                    }
                    let bytes = settled(instance);
                    all.push(Memory { target: turn.name, connections, bytes });
                }
            }
        }
        Ok(all)
    }

    /// CPU and memory of large bodies.
    pub(crate) fn bodies(&self, rounds: u32) -> io::Result<Vec<Body>> {
        let turns = self.turns(false)?;
        let mut all = Vec::new();
        for round in 0..rounds {
            told("bodies", round, rounds, "1 GiB up and down");
            for turn in by_turns(&turns, round).filter(|turn| !turn.target.echoes) {
                for upload in [true, false] {
                    let mut client = Client::dial(&turn.target)?;
                    client.download(1)?;
                    let process = turn.instance.as_ref().map(|instance| &instance.process);
                    let memory = process.map_or(0, |process| {
                        process.forget_peak();
                        process.memory()
                    });
                    let (before, begun) = (turn.cpu(), Instant::now());
                    match upload {
                        true => client.upload(BODY)?,
                        false => client.download(BODY)?,
                    }
                    let cpu = turn.cpu().since(before);
                    let peak = process.map_or(0, |process| process.peak_memory());
                    all.push(Body {
                        target: turn.name,
                        upload,
                        bytes: BODY,
                        seconds: begun.elapsed().as_secs_f64(),
                        user_seconds: cpu.user,
                        system_seconds: cpu.system,
                        memory_growth_bytes: peak.saturating_sub(memory),
                    });
                }
            }
        }
        Ok(all)
    }
}

/// Each round begins with another one.
fn by_turns(turns: &[Turn], round: u32) -> impl Iterator<Item = &Turn> {
    turns.iter().cycle().skip(round as usize % turns.len().max(1)).take(turns.len())
}

/// What it has once it does not change any more: what is done at the start, or after a handshake, is over.
fn settled(instance: &Instance) -> u64 {
    let mut before = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(500));
        let now = instance.process.memory();
        if now == before {
            break;
        }
        before = now;
    }
    before
}

/// The comparison is of a broker that keeps records of those who polled.
fn knows_its_runners(instance: &Instance) -> io::Result<()> {
    let Some(admin) = instance.admin else { return Ok(()) };
    let metrics = ureq::get(format!("http://{admin}/metrics"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .map_err(io::Error::other)?;
    let runners: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("runner_broker_runners{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    let expected = CONNECTIONS.into_iter().max().unwrap_or_default();
    match runners as usize == expected {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the broker knows {runners} runners, not the {expected} that polled"
        ))),
    }
}

fn told(part: &str, round: u32, rounds: u32, what: &str) {
    eprintln!("{part}: round {} of {rounds}, {what}", round + 1);
}
