//! How the broker's costs grow with the number of records in its store and of runners that poll.
//!
//! `cargo bench --bench scale -- [--quick] [--out DIR] [BINARY]`: some four minutes, and 20,000 file descriptors.
//! With a `BINARY`, that broker is measured in place of the built one, from outside alone.

// What fails ends the bench.
#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;

mod back_end;
mod broker;
mod inside;
mod pages;
mod pollers;
mod population;

use std::time::{Duration, Instant};

use kit::options::Options;
use kit::plot::{Axis, Lines, Scale, Series};
use kit::table::Table;
use serde_json::json;
use tokio::runtime::Runtime;

use broker::{Broker, Site};
use pages::Admin;
use pollers::{Polled, Rhythm, poll};
use population::Shown;

/// Runners that poll in the same way at each size: as many as the smallest has live.
const SAME_LOAD: usize = 10;

/// One size of the store, and all that is measured with it.
struct Place {
    records: usize,
    site: Site,
    live: Vec<Shown>,
    broker: Option<Broker>,
    figures: Vec<(&'static str, &'static str, f64)>,
    /// CPU and polls of the load that is the same at each size.
    same: (Duration, usize),
}

impl Place {
    fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("it serves")
    }

    fn note(&mut self, name: &'static str, unit: &'static str, figure: f64) {
        eprintln!("{:>7} records: {name}: {figure:.2} {unit}", self.records);
        self.figures.push((name, unit, figure));
    }
}

fn main() {
    let options = Options::read();
    runner_broker::net::descriptors::raise_limit();
    let sizes: &[usize] = match options.quick {
        true => &[100, 1_000, 10_000],
        false => &[100, 1_000, 10_000, 100_000],
    };
    let back_end = back_end::start();
    let mut places: Vec<_> = sizes
        .iter()
        .map(|&records| {
            eprintln!("making a store of {records} records");
            let site = Site::new(options.rest.first(), back_end);
            let live = population::make(&site.store(), records);
            Place {
                records,
                site,
                live,
                broker: None,
                figures: Vec::new(),
                same: Default::default(),
            }
        })
        .collect();
    for place in &mut places {
        start(place, if options.quick { 1 } else { 3 });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(same_load(&mut places, options.quick));
    for place in &mut places {
        ask_for_pages(place);
    }
    for place in &mut places {
        all_poll(&runtime, place, options.quick);
        place.broker = None;
    }
    let inside = if options.rest.is_empty() { &mut places[..] } else { &mut [] };
    for place in inside {
        let inside = inside::measure(&place.site);
        place.note("lease sweep", "ms", ms(inside.sweep));
        place.note("gauges of a scrape", "ms", ms(inside.measure));
        place.note("Register, the store's part", "µs", us(inside.register));
        place.note("Deregister, the store's part", "µs", us(inside.deregister));
        place.note("events and tokens pruned", "ms", ms(inside.prune));
    }
    report(&options, &places);
}

fn start(place: &mut Place, times: usize) {
    let mut took = Vec::new();
    for _ in 0..times {
        // The one before has let go of the store by then.
        place.broker = None;
        let broker = Broker::start(&place.site);
        took.push(broker.started_in);
        place.broker = Some(broker);
    }
    took.sort_unstable();
    place.note("start until it listens", "ms", ms(took[took.len() / 2]));
    std::thread::sleep(Duration::from_millis(300));
    let memory = place.broker().memory();
    place.note("memory after the start", "MiB", mib(memory));
}

/// The rounds of all sizes alternate, so that what else the machine does troubles them alike.
async fn same_load(places: &mut [Place], quick: bool) {
    let (rounds, during) = match quick {
        true => (2, Duration::from_millis(500)),
        false => (6, Duration::from_secs(2)),
    };
    let every = Duration::from_millis(10);
    let rhythm = Rhythm { every: (every, every), during };
    for round in 0..=rounds {
        for place in places.iter_mut() {
            let before = place.broker().cpu();
            let polled = poll(place.broker().runners, &place.live[..SAME_LOAD], rhythm).await;
            let spent = place.broker().cpu() - before;
            // The first one warms up.
            if round > 0 {
                place.same = (place.same.0 + spent, place.same.1 + polled.count());
            }
        }
    }
    for place in places {
        let (spent, polls) = place.same;
        place.note("a poll, at 1,000 a second from 10 runners", "µs", us(spent) / polls as f64);
    }
}

fn ask_for_pages(place: &mut Place) {
    let token = format!("/tokens/{}", population::token_id(0));
    let mut figures = Vec::new();
    let admin = Admin::of(place.broker());
    for (path, time, size) in [
        ("/metrics", "/metrics", "/metrics, size"),
        ("/", "token page", "token page, size"),
        (&token, "page of one token", "page of one token, size"),
        ("/runners", "page of runners", "page of runners, size"),
        ("/events", "page of events", "page of events, size"),
        ("/api/v1/tokens?limit=1000", "API: tokens", ""),
        ("/api/v1/runners?limit=1000", "API: 1,000 runners", ""),
        ("/api/v1/events?limit=1000", "API: 1,000 events", ""),
        ("/api/v1/status", "API: status", ""),
        ("/api/v1/runners/prune?dry_run=true", "API: prune, dry run", ""),
    ] {
        let page = admin.get(path, 9);
        figures.push((time, "ms", ms(page.cpu)));
        if !size.is_empty() {
            figures.push((size, "KiB", page.bytes as f64 / 1024.0));
        }
    }
    for (name, unit, figure) in figures {
        place.note(name, unit, figure);
    }
}

/// All live runners poll as real ones do; then they do so while an admin looks and Prometheus scrapes.
fn all_poll(runtime: &Runtime, place: &mut Place, quick: bool) {
    let during = Duration::from_secs(if quick { 6 } else { 14 });
    let rhythm = Rhythm { every: (Duration::from_secs(4), Duration::from_secs(6)), during };
    let (memory, before) = (place.broker().memory(), place.broker().cpu());
    let polled = runtime.block_on(poll(place.broker().runners, &place.live, rhythm));
    let spent = place.broker().cpu() - before;
    let grown = place.broker().memory().saturating_sub(memory);
    let (polls, live) = (polled.count() as f64, place.live.len() as f64);
    place.note("polls a second, all live runners", "", polls / during.as_secs_f64());
    place.note("a poll, all live runners", "µs", us(spent) / polls);
    place.note(
        "memory for a runner that polls, its connection with it",
        "KiB",
        grown as f64 / 1024.0 / live,
    );
    place.note(
        "CPU of the broker meanwhile",
        "% of a core",
        100.0 * spent.as_secs_f64() / during.as_secs_f64(),
    );
    place.note("polls refused", "", polled.refused as f64);
    tell_latency(place, &polled, ["latency p50", "latency p99", "latency, longest"]);

    let stop = Instant::now() + during;
    let polled = std::thread::scope(|scope| {
        let broker = place.broker();
        let looks = scope.spawn(move || {
            let admin = Admin::of(broker);
            while Instant::now() < stop {
                for path in ["/metrics", "/", "/runners", "/api/v1/runners?limit=1000"] {
                    admin.once(path);
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
        let polled = runtime.block_on(poll(broker.runners, &place.live, rhythm));
        looks.join().expect("the pages are made");
        polled
    });
    tell_latency(
        place,
        &polled,
        [
            "latency p50, while pages are made",
            "latency p99, while pages are made",
            "latency, longest, while pages are made",
        ],
    );
}

fn tell_latency(place: &mut Place, polled: &Polled, names: [&'static str; 3]) {
    for (name, part) in names.into_iter().zip([0.5, 0.99, 1.0]) {
        place.note(name, "ms", ms(polled.quantile(part)));
    }
}

fn report(options: &Options, places: &[Place]) {
    let sizes: Vec<_> = places.iter().map(|place| place.records).collect();
    let headings = ["of it".to_owned()].into_iter().chain(sizes.iter().map(ToString::to_string));
    let mut table = Table::new(headings);
    let live = places.iter().map(|place| place.live.len().to_string());
    table.row(["live runners".to_owned()].into_iter().chain(live));
    let mut raw = serde_json::Map::new();
    for (at, (name, unit, _)) in places[0].figures.iter().enumerate() {
        let figures: Vec<_> = places.iter().map(|place| place.figures[at].2).collect();
        let named = if unit.is_empty() { (*name).to_owned() } else { format!("{name} ({unit})") };
        let cells = figures.iter().map(|figure| format!("{figure:.*}", digits(*figure)));
        table.row([named.clone()].into_iter().chain(cells));
        raw.insert(named, json!(figures));
    }
    println!("{table}");
    let raw = json!({ "records": sizes, "live": places.iter().map(|place| place.live.len()).collect::<Vec<_>>(), "figures": raw });
    options.write("scale.json", &format!("{raw:#}\n"));
    let series = |name: &'static str, shown: &'static str| {
        let of = |place: &Place| place.figures.iter().find(|one| one.0 == name).map(|one| one.2);
        let points = places.iter().filter_map(|place| Some((place.records as f64, of(place)?)));
        Series { name: shown, points: points.collect() }
    };
    let x =
        || Axis { label: "records in the store, a tenth of them live runners", scale: Scale::Log };
    options.with("scale-requests.svg", |file| {
        let plot = Lines {
            title: "On the path of a request: CPU time",
            x: x(),
            y: Axis { label: "µs", scale: Scale::Log },
            series: vec![
                series(
                    "a poll, at 1,000 a second from 10 runners",
                    "poll (same load at each size)",
                ),
                series("Register, the store's part", "Register, the store's part"),
                series("Deregister, the store's part", "Deregister, the store's part"),
            ],
        };
        plot.write(file).expect("the plot can be drawn");
    });
    options.with("scale-looks.svg", |file| {
        let plot = Lines {
            title: "Now and then: CPU time",
            x: x(),
            y: Axis { label: "ms", scale: Scale::Log },
            series: vec![
                series("start until it listens", "start"),
                series("lease sweep", "lease sweep"),
                series("/metrics", "/metrics"),
                series("token page", "token page"),
                series("page of runners", "page of runners"),
                series("API: 1,000 runners", "API: 1,000 runners"),
            ],
        };
        plot.write(file).expect("the plot can be drawn");
    });
    options.with("scale-memory.svg", |file| {
        let plot = Lines {
            title: "Memory",
            x: x(),
            y: Axis { label: "MiB", scale: Scale::Log },
            series: vec![series("memory after the start", "after the start")],
        };
        plot.write(file).expect("the plot can be drawn");
    });
}

fn digits(figure: f64) -> usize {
    match figure {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
