//! `runner`: the runners that came by this broker.

mod adopt;
mod drain;
mod prune;

use std::time::SystemTime;

use hyper::Method;

use super::client::{BrokerArgs, SLOW};
use super::show::{self, ago, columns, plain};
use super::{Failure, block_on, complain, print};
use crate::admin::view::Runner;
use crate::gitea::escape;

/// List, show, adopt, drain, prune and deregister runners
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
        /// Only those that came by the enrollment token of this id
        #[arg(long, value_name = "ID")]
        token: Option<String>,

        /// Only those that serve here: instance, org:NAME, user or repo:OWNER/NAME
        #[arg(long)]
        scope: Option<String>,

        /// Print JSON for programs
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Show all that is known of one runner
    Show {
        /// Gitea's id, the uuid, or a name that only one runner has
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,

        /// Print JSON for programs
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Delete a runner in Gitea and end its record
    #[command(visible_alias = "rm")]
    Deregister {
        /// Gitea's id, the uuid, or a name that only one runner has
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,

        /// Report the task of a busy runner as cancelled first; else a busy runner is left
        #[arg(long)]
        cancel_task: bool,

        #[command(flatten)]
        broker: BrokerArgs,
    },
    Adopt(adopt::AdoptArgs),
    Drain(drain::Args),
    Prune(prune::Args),
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List { broker, token, scope, json } => {
            list(broker, token.as_deref(), scope.as_deref(), *json)
        }
        Command::Show { broker, id, json } => show(broker, id, *json),
        Command::Adopt(args) => adopt::run(args),
        Command::Deregister { broker, id, cancel_task } => deregister(broker, id, *cancel_task),
        Command::Drain(args) => drain::run(args),
        Command::Prune(args) => prune::run(args),
    }
}

fn list(
    broker: &BrokerArgs,
    token: Option<&str>,
    scope: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let broker = broker.broker()?;
    let filters = [("token_id", token), ("scope", scope)];
    let runners: Vec<Runner> = block_on(broker.list("/api/v1/runners", &filters, usize::MAX))?;
    if json {
        return print(show::json(&runners)?);
    }
    if runners.is_empty() {
        return print(match (token, scope) {
            (None, None) => "no runner is registered by this broker",
            (Some(_), None) => "no registered runner came by this token",
            (None, Some(_)) => "no registered runner serves this scope",
            (Some(_), Some(_)) => "no registered runner of this scope came by this token",
        });
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

fn show(broker: &BrokerArgs, id: &str, json: bool) -> Result<(), Failure> {
    let runner: Runner = block_on(broker.broker()?.get(&path(id)))?;
    if json {
        return print(show::json(&runner)?);
    }
    let now = SystemTime::now();
    let none = || "none".to_owned();
    let tasks: Vec<_> = runner.tasks.iter().map(i64::to_string).collect();
    print(show::fields(&[
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
        ("origin", runner.origin.clone()),
        ("came by token", runner.parent_id.clone().unwrap_or_else(none)),
        ("came from", runner.peer.to_string()),
        ("runner file", runner.file.clone().unwrap_or_else(none)),
    ]))
}

fn deregister(broker: &BrokerArgs, id: &str, cancel_task: bool) -> Result<(), Failure> {
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
