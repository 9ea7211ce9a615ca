//! `token`: the enrollment tokens, by which runners join.

mod issue;

use std::time::SystemTime;

use hyper::Method;

use super::client::{BrokerArgs, QUICK};
use super::show::{self, ago, columns, plain, until};
use super::{Failure, block_on, print};
use crate::admin::view::Token;
use crate::gitea::escape;

const TOKENS: &str = "/api/v1/tokens";

/// Create, list, switch, rotate and delete enrollment tokens
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(issue::CreateArgs),
    /// List all tokens
    #[command(visible_alias = "ls")]
    List {
        /// Print JSON for programs
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Show all that is known of one token, but not its secret
    Show {
        /// Print JSON for programs
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        token: One,
    },
    /// Let runners join by a token again
    Enable(One),
    /// Let no runner join by a token, from now on
    Disable {
        /// Deregister the runners that came by it, busy ones after their task
        #[arg(long)]
        cascade: bool,

        #[command(flatten)]
        token: One,
    },
    /// Make a single-use token reusable
    Pin(One),
    /// Make a reusable token single-use
    Unpin(One),
    Rotate(issue::RotateArgs),
    /// End a token for good
    #[command(visible_alias = "rm")]
    Delete {
        /// Deregister the runners that came by it, busy ones after their task
        #[arg(long)]
        cascade: bool,

        #[command(flatten)]
        token: One,
    },
}

/// One token of one broker.
#[derive(Debug, clap::Args)]
struct One {
    /// The token's id, as `token list` shows it
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    id: String,

    #[command(flatten)]
    broker: BrokerArgs,
}

impl One {
    /// Where the broker has it, or what can be done with it.
    fn path(&self, then: &str) -> String {
        format!("{TOKENS}/{}{then}", escape(&self.id))
    }

    fn change(&self, method: Method, then: &str) -> Result<Token, Failure> {
        let broker = self.broker.broker()?;
        block_on(broker.ask(method, &self.path(then), QUICK))
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Create(args) => issue::create(args),
        Command::List { broker, json } => list(broker, *json),
        Command::Show { token, json } => show(token, *json),
        Command::Enable(token) => {
            let token = token.change(Method::POST, "/enable")?;
            print(format!("token {} is enabled{}", plain(&token.id), admits_nobody(&token)))
        }
        Command::Disable { token, cascade } => {
            let how = if *cascade { "/disable?cascade=true" } else { "/disable" };
            let token = token.change(Method::POST, how)?;
            let runners = left_behind(&token, *cascade);
            print(format!("token {} is disabled; {runners}", plain(&token.id)))
        }
        Command::Pin(token) => {
            let token = token.change(Method::POST, "/pin")?;
            print(format!("token {} is reusable{}", plain(&token.id), admits_nobody(&token)))
        }
        Command::Unpin(token) => {
            let token = token.change(Method::POST, "/unpin")?;
            print(format!("token {} is single-use{}", plain(&token.id), admits_nobody(&token)))
        }
        Command::Rotate(args) => issue::rotate(args),
        Command::Delete { token, cascade } => {
            let how = if *cascade { "?cascade=true" } else { "" };
            let token = token.change(Method::DELETE, how)?;
            let runners = left_behind(&token, *cascade);
            print(format!("token {} is deleted; {runners}", plain(&token.id)))
        }
    }
}

/// What surprises whoever thinks that runners can join now.
fn admits_nobody(token: &Token) -> String {
    match token.state.as_str() {
        "active" => String::new(),
        _ => format!(", and admits nobody: it is {}", state(token)),
    }
}

/// What becomes of the runners of a token that ends.
fn left_behind(token: &Token, cascade: bool) -> String {
    match (token.live_runners, cascade) {
        (0, _) => "no live runner came by it".into(),
        (count, false) => format!("live runners that stay registered: {count}"),
        (count, true) => format!(
            "live runners that are being deregistered, busy ones after their task: {count}; \
             `runner-broker runner list --token {}` shows who is left",
            plain(&token.id)
        ),
    }
}

fn list(broker: &BrokerArgs, json: bool) -> Result<(), Failure> {
    let broker = broker.broker()?;
    let tokens: Vec<Token> = block_on(broker.list(TOKENS, &[], usize::MAX))?;
    if json {
        return print(show::json(&tokens)?);
    }
    if tokens.is_empty() {
        return print("there is no enrollment token; `runner-broker token create` makes one");
    }
    let now = SystemTime::now();
    let mut table = columns([
        "ID",
        "STATE",
        "KIND",
        "SCOPE",
        "USES",
        "RUNNERS",
        "LAST USED",
        "EXPIRES",
        "DESCRIPTION",
    ]);
    for token in tokens {
        table.add_row([
            plain(&token.id),
            state(&token),
            match token.origin.as_str() {
                "created" => kind(&token),
                origin => format!("{} ({})", kind(&token), plain(origin)),
            },
            plain(&token.scope),
            uses(&token, "/"),
            runners(&token, "/"),
            last_used(&token, now),
            expires(&token, now),
            plain(&token.description),
        ]);
    }
    print(table.trim_fmt())
}

fn show(token: &One, json: bool) -> Result<(), Failure> {
    let broker = token.broker.broker()?;
    let token: Token = block_on(broker.get(&token.path("")))?;
    if json {
        return print(show::json(&token)?);
    }
    let now = SystemTime::now();
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let any = |list: &[String]| if list.is_empty() { "any".into() } else { list.join(", ") };
    let none = |text: Option<&String>| text.cloned().unwrap_or_else(|| "none".into());
    let exactly = |said: String, time: &Option<String>| match time {
        Some(time) => format!("{said} ({time})"),
        None => said,
    };
    let created = format!("{} ({})", ago(&token.created_at, now), token.created_at);
    print(show::fields(&[
        ("id", token.id.clone()),
        ("state", state(&token)),
        ("switched on", yes(token.active)),
        ("kind", kind(&token)),
        ("origin", token.origin.clone()),
        ("exchanged for", none(token.parent_id.as_ref())),
        ("description", none(Some(&token.description).filter(|text| !text.is_empty()))),
        ("scope", token.scope.clone()),
        ("labels", any(&token.labels)),
        ("runner names", token.name_pattern.clone().unwrap_or_else(|| "any".into())),
        ("ephemeral only", yes(token.ephemeral_only)),
        ("networks", any(&token.allowed_cidrs)),
        ("uses", uses(&token, " of ")),
        ("live runners", runners(&token, " of ")),
        ("last used", exactly(last_used(&token, now), &token.last_used_at)),
        ("expires", exactly(expires(&token, now), &token.expires_at)),
        ("created", created),
        ("created by", token.created_by.clone()),
    ]))
}

fn state(token: &Token) -> String {
    plain(&token.state).replace('_', " ")
}

fn kind(token: &Token) -> String {
    plain(&token.kind).replace('_', "-")
}

/// How often it was used, and how often it may be.
fn uses(token: &Token, of: &str) -> String {
    let most = if token.kind == "single_use" { Some(1) } else { token.max_uses };
    limited(token.uses, most, of)
}

fn runners(token: &Token, of: &str) -> String {
    limited(token.live_runners, token.max_runners, of)
}

fn limited(count: impl std::fmt::Display, most: Option<u32>, of: &str) -> String {
    match most {
        Some(most) => format!("{count}{of}{most}"),
        None => count.to_string(),
    }
}

fn last_used(token: &Token, now: SystemTime) -> String {
    token.last_used_at.as_deref().map_or_else(|| "never".into(), |time| ago(time, now))
}

fn expires(token: &Token, now: SystemTime) -> String {
    token.expires_at.as_deref().map_or_else(|| "never".into(), |time| until(time, now))
}
