//! How many instructions of the broker a request takes, counted by valgrind's callgrind: unlike time, that is
//! the same on a busy machine. What the system does on the broker's behalf is not in it.
//!
//! `cargo bench --bench instructions` compares with `expected.json` beside this file and fails where a count
//! is more than a tenth above it; with `-- --record`, it writes that file anew.

#[path = "../kit/mod.rs"]
mod kit;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{fs, io};

use clap::Parser;

use kit::broker::{BESIDE, Setup};
use kit::client::{Client, Target};
use kit::process::{Process, free_port, program};
use kit::{backend, wire};

/// What a count may be above the expected one.
const JUMP: f64 = 1.1;
/// Where it is so far below, it is to be recorded anew: a later jump would hide in the difference.
const DROP: f64 = 0.9;

/// Counts the broker's instructions for a poll that is passed on and for a registration.
#[derive(Debug, Parser)]
#[command(name = "instructions")]
struct Args {
    /// Takes what is counted for what is expected from now on
    #[arg(long)]
    record: bool,
    /// Keeps callgrind's files in this folder, to be read with callgrind_annotate
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is counted. Each is done `few` and `many` times by a broker of its own, so that what is done once
/// drops out.
struct Subject {
    name: &'static str,
    few: usize,
    many: usize,
    request: fn(usize) -> Vec<u8>,
}

const SUBJECTS: [Subject; 2] = [
    Subject { name: "poll", few: 200, many: 2200, request: |_| wire::poll().request(0) },
    Subject { name: "register", few: 20, many: 220, request: wire::register },
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The instructions were not counted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing has jumped.
fn run(args: &Args) -> io::Result<bool> {
    let valgrind = program("valgrind").ok_or_else(|| {
        io::Error::other("valgrind (Debian's package valgrind) is not on this machine")
    })?;
    let scratch = tempfile::tempdir()?;
    let folder = args.keep.as_deref().unwrap_or(scratch.path());
    let mut counted = BTreeMap::new();
    for Subject { name, few, many, request } in SUBJECTS {
        let count = |times: usize| {
            eprintln!("{name}: {times} times");
            instructions(&valgrind, folder, &format!("{name}-{times}"), times, request)
        };
        let (few_took, many_took) = (count(few)?, count(many)?);
        let each = many_took.saturating_sub(few_took) / (many - few) as u64;
        counted.insert(name.to_owned(), each);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/expected.json");
    if args.record {
        fs::write(&file, serde_json::to_string_pretty(&counted)? + "\n")?;
    }
    let expected: BTreeMap<String, u64> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    println!("| | Instructions | Expected | Ratio |\n|---|---:|---:|---:|");
    let mut within = true;
    for (name, &each) in &counted {
        let Some(&expected) = expected.get(name) else {
            return Err(io::Error::other(format!("{} does not have {name}", file.display())));
        };
        let ratio = each as f64 / expected as f64;
        println!("| {name} | {each} | {expected} | {ratio:.3} |");
        if ratio > JUMP {
            within = false;
            eprintln!(
                "{name} takes more than a tenth more than before: find out why, and mend it."
            );
        } else if ratio < DROP {
            eprintln!("{name} takes less than it did: record that with --record.");
        }
    }
    Ok(within)
}

/// Those of a broker that answers so many requests, one after the other.
fn instructions(
    valgrind: &Path,
    folder: &Path,
    name: &str,
    times: usize,
    request: fn(usize) -> Vec<u8>,
) -> io::Result<u64> {
    let home = folder.join(name);
    fs::create_dir_all(&home)?;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let setup = Setup {
        address: loopback(free_port()),
        admin: loopback(free_port()),
        tls: None,
        gitea: backend::start()?,
    };
    let settings = setup.write(&home)?;
    let counts = home.join("callgrind.out");
    let mut command = Command::new(valgrind);
    command
        // Copies by an instruction that counts once a byte, from a size on that is another with each processor.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .args([BESIDE, "serve", "--config"])
        .arg(settings);
    let mut broker = Process::start(name, &mut command, &home.join("log"))?;
    broker.listens(setup.address)?;
    let target = Target { address: setup.address, tls: None, echoes: false };
    let mut client = Client::dial(&target)?;
    client.exchange(&wire::declare().request(0))?;
    for number in 0..times {
        client.exchange(&request(number))?;
    }
    drop(client);
    drop(broker);
    let text = fs::read_to_string(&counts)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))
        .and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| {
        let log = fs::read_to_string(home.join("log")).unwrap_or_default();
        io::Error::other(format!("callgrind counted nothing; it says:\n{log}"))
    })
}
