//! `events`: the audit trail.

use std::time::SystemTime;

use clap::builder::PossibleValuesParser;

use super::client::BrokerArgs;
use super::show::{self, ago, columns, plain};
use super::{Failure, block_on, print};
use crate::admin::view::Event;
use crate::broker::event::What;

/// Show what happened to tokens and runners, and who did it, latest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only what is about the enrollment token of this id
    #[arg(long, value_name = "ID")]
    token: Option<String>,

    /// Only what is about the runner of this id of Gitea's
    #[arg(long, value_name = "ID")]
    runner: Option<i64>,

    /// Only what happened in this way
    #[arg(
        long,
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(What::ALL.iter().map(|what| what.as_str()))
    )]
    what: Option<String>,

    /// At most so many
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let broker = args.broker.broker()?;
    let runner = args.runner.map(|id| id.to_string());
    let filters = [
        ("token_id", args.token.as_deref()),
        ("runner_id", runner.as_deref()),
        ("what", args.what.as_deref()),
    ];
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let events: Vec<Event> = block_on(broker.list("/api/v1/events", &filters, most))?;
    if args.json {
        return print(show::json(&events)?);
    }
    if events.is_empty() {
        return print("nothing of that kind is in the audit trail");
    }
    let now = SystemTime::now();
    let mut table = columns(["TIME", "WHAT", "ACTOR", "TOKEN", "RUNNER", "FROM", "DETAIL"]);
    for event in events {
        table.add_row([
            ago(&event.at, now),
            plain(&event.what),
            plain(&event.actor),
            plain(event.token_id.as_deref().unwrap_or_default()),
            plain(&runner_of(&event)),
            event.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            plain(&event.detail),
        ]);
    }
    print(table.trim_fmt())
}

/// The name, and the id where it has one already.
fn runner_of(event: &Event) -> String {
    match (&event.runner, event.runner_id) {
        (Some(name), Some(id)) => format!("{name} ({id})"),
        (Some(name), None) => name.clone(),
        (None, Some(id)) => id.to_string(),
        (None, None) => String::new(),
    }
}
