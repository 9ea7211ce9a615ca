//! `runner`: the runners that came by this broker.

use std::time::SystemTime;

use hyper::Method;

use super::client::{SLOW, SocketArgs};
use super::show::{self, ago, columns, plain};
use super::{Failure, block_on, complain, print};
use crate::admin::view::Runner;
use crate::gitea::escape;

/// List, show and deregister runners
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List all runners
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        broker: SocketArgs,

        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one runner
    Show {
        #[command(flatten)]
        broker: SocketArgs,

        /// Gitea's id, the uuid, or a name that only one runner has
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,

        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Delete a runner in Gitea and end its record
    #[command(visible_alias = "rm")]
    Deregister {
        #[command(flatten)]
        broker: SocketArgs,

        /// Gitea's id, the uuid, or a name that only one runner has
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,

        /// Report the task of a busy runner as cancelled first; else a busy runner is left
        #[arg(long)]
        cancel_task: bool,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List { broker, json } => list(broker, *json),
        Command::Show { broker, id, json } => show(broker, id, *json),
        Command::Deregister { broker, id, cancel_task } => deregister(broker, id, *cancel_task),
    }
}

fn list(broker: &SocketArgs, json: bool) -> Result<(), Failure> {
    let runners: Vec<Runner> = block_on(broker.broker()?.get("/api/v1/runners"))?;
    if json {
        return print(show::json(&runners)?);
    }
    if runners.is_empty() {
        return print("no runner is registered by this broker");
    }
    let now = SystemTime::now();
    let mut table = columns(["ID", "NAME", "STATE", "LABELS", "SCOPE", "LAST SEEN"]);
    for runner in runners {
        table.add_row([
            runner.id.to_string(),
            plain(&runner.name),
            plain(&runner.state),
            plain(&runner.labels.join(",")),
            plain(&runner.scope),
            last_seen(&runner, now),
        ]);
    }
    print(table.trim_fmt())
}

fn show(broker: &SocketArgs, id: &str, json: bool) -> Result<(), Failure> {
    let runner: Runner = block_on(broker.broker()?.get(&path(id)))?;
    if json {
        return print(show::json(&runner)?);
    }
    let now = SystemTime::now();
    let none = || "none".to_owned();
    let tasks: Vec<_> = runner.tasks.iter().map(i64::to_string).collect();
    let lines = [
        ("id", runner.id.to_string()),
        ("uuid", runner.uuid.clone()),
        ("name", runner.name.clone()),
        ("state", runner.state.clone()),
        ("scope", runner.scope.clone()),
        ("labels", runner.labels.join(",")),
        ("ephemeral", if runner.ephemeral { "yes" } else { "no" }.into()),
        ("version", runner.version.clone()),
        ("tasks in hand", if tasks.is_empty() { none() } else { tasks.join(",") }),
        ("last seen", last_seen(&runner, now)),
        ("registered", format!("{} ({})", ago(&runner.registered_at, now), runner.registered_at)),
        ("came by token", runner.parent_id.clone()),
        ("came from", runner.peer.to_string()),
        ("runner file", runner.file.clone().unwrap_or_else(none)),
    ];
    let lines: Vec<_> =
        lines.iter().map(|(what, text)| format!("{what:<15}{}", plain(text))).collect();
    print(lines.join("\n"))
}

fn deregister(broker: &SocketArgs, id: &str, cancel_task: bool) -> Result<(), Failure> {
    let path = if cancel_task { path(id) + "?cancel_task=true" } else { path(id) };
    let broker = broker.broker()?;
    let runner: Runner = block_on(broker.ask(Method::DELETE, &path, SLOW))?;
    if let Some(file) = &runner.file {
        complain(format!(
            "the runner file {} could not be removed: delete it yourself; the broker's log tells why",
            plain(file)
        ));
    }
    print(format!("runner {} ({}) is deregistered", runner.id, plain(&runner.name)))
}

fn path(id: &str) -> String {
    format!("/api/v1/runners/{}", escape(id))
}

fn last_seen(runner: &Runner, now: SystemTime) -> String {
    runner.last_seen_at.as_deref().map_or_else(|| "never".into(), |time| ago(time, now))
}
