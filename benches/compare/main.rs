//! The broker beside HAProxy, nginx and Caddy, one thread each, in front of the same back end.
//!
//! `cargo bench --bench compare -- --help` tells what can be asked for. Nothing is installed; what is missing
//! is told. All of it takes place on loopback and ends by itself.

mod bare;
#[path = "../kit/mod.rs"]
mod kit;
mod proxies;
mod report;
mod rounds;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use proxies::Proxy;
use rounds::Bench;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU and rate of small requests, from connections that are never idle.
    Requests,
    /// Time of small requests that come at a fixed rate.
    Latency,
    /// Memory with idle connections.
    Memory,
    /// CPU and memory of large bodies.
    Bodies,
}

/// Compares the broker with other reverse proxies: CPU, rate, latency, memory and large bodies.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Args {
    /// How often everything is measured, the proxies by turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only these proxies
    #[arg(long, value_delimiter = ',')]
    only: Vec<Proxy>,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Where raw numbers and plots go
    #[arg(long)]
    out: Option<PathBuf>,
    /// Serves as the bare proxy: its address, and that of the back end
    #[arg(long, hide = true, num_args = 2)]
    bare: Vec<SocketAddr>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let [address, backend] = args.bare[..] {
        let Err(error) = bare::serve(address, backend) else { return ExitCode::SUCCESS };
        eprintln!("The bare proxy ended: {error}");
        return ExitCode::FAILURE;
    }
    let proxies = if args.only.is_empty() { Proxy::ALL.to_vec() } else { args.only.clone() };
    let missing = proxies::missing(&proxies);
    if !missing.is_empty() {
        eprintln!("Not on this machine: {}.", missing.join(", "));
        eprintln!("Install that, or name those that are to be compared with --only.");
        return ExitCode::FAILURE;
    }
    let has = |part| args.parts.is_empty() || args.parts.contains(&part);
    let time = Duration::from_secs_f64(args.seconds.clamp(0.1, 60.0));
    let measured = Bench::prepare(proxies).and_then(|bench| {
        let mut report = report::Report::new(&bench, args.rounds, time);
        if has(Part::Requests) {
            report.requests = bench.requests(args.rounds, time)?;
        }
        if has(Part::Latency) {
            report.latencies = bench.latencies(args.rounds, time)?;
        }
        if has(Part::Memory) {
            report.memory = bench.memory(args.rounds)?;
        }
        if has(Part::Bodies) {
            report.bodies = bench.bodies(args.rounds)?;
        }
        report.print();
        args.out.as_deref().map_or(Ok(()), |out| report.write(out))
    });
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The comparison broke off: {error}");
            ExitCode::FAILURE
        }
    }
}
