//! `runner prune`: runners that are gone are deregistered now.

use hyper::Method;

use crate::admin::view::PrunedRunner;
use crate::cli::client::{BrokerArgs, SLOW};
use crate::cli::show::{self, columns, plain};
use crate::cli::{Failure, block_on, print};

/// Deregister the runners that are gone, without waiting for their leases to end
///
/// One of them that speaks again is registered anew.
#[derive(Debug, clap::Args)]
#[group(id = "how", required = true, multiple = false, args = ["dry_run", "yes"])]
pub(super) struct Args {
    /// Only show which, and why
    #[arg(long)]
    dry_run: bool,

    /// Do it
    #[arg(long)]
    yes: bool,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let path = format!("/api/v1/runners/prune?dry_run={}", args.dry_run);
    let broker = args.broker.broker()?;
    let pruned: Vec<PrunedRunner> = block_on(broker.ask(Method::POST, &path, SLOW))?;
    if args.json {
        return print(show::json(&pruned)?);
    }
    if pruned.is_empty() {
        return print("no runner is gone");
    }
    let done = if args.dry_run { "WOULD BE" } else { "IS" };
    let mut table = columns(["ID", "NAME", done, "WHY"]);
    for PrunedRunner { runner, outcome, detail } in &pruned {
        table.add_row([runner.id.to_string(), plain(&runner.name), plain(outcome), plain(detail)]);
    }
    print(table.trim_fmt())
}
