//! `token create` and `token rotate`, which tell a secret, once.

use std::io::{self, IsTerminal};
use std::time::SystemTime;

use hyper::Method;

use super::{One, TOKENS, kind};
use crate::admin::view::{IssuedToken, NewToken};
use crate::cli::client::{BrokerArgs, QUICK};
use crate::cli::show::{self, plain, until};
use crate::cli::{Failure, block_on, complain, print};
use crate::gitea::escape;

/// Create a token and print its secret, which is not shown again
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// It admits one runner
    #[arg(long)]
    single_use: bool,

    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Where its runners serve: instance, org:NAME, user or repo:OWNER/NAME, as far as the broker serves
    /// it [default: the broker's first]
    #[arg(long)]
    scope: Option<String>,

    /// A label that its runners may have, without what follows a colon; repeatable [default: any]
    #[arg(long = "label", value_name = "NAME")]
    labels: Vec<String>,

    /// What a runner's name must match, for example builder-*
    #[arg(long, value_name = "GLOB")]
    name_pattern: Option<String>,

    /// How many runners it admits in all
    #[arg(long, value_name = "N")]
    max_uses: Option<u32>,

    /// How many of its runners may be alive at once
    #[arg(long, value_name = "N")]
    max_runners: Option<u32>,

    /// For how long it admits, for example 12h or 30d [default: for ever]
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,

    /// It admits only runners that Gitea removes after one task
    #[arg(long)]
    ephemeral_only: bool,

    /// A network that its runners must come from, for example 10.0.0.0/8; repeatable [default: any]
    #[arg(long = "allow-cidr", value_name = "CIDR")]
    allowed_cidrs: Vec<String>,

    /// Print JSON for programs, with the field `secret`
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    broker: BrokerArgs,
}

/// Give a token a new secret and print it; it is not shown again
#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    /// How long the old secret goes on, for example 1h [default: it ends at once]
    #[arg(long, value_name = "DURATION")]
    overlap: Option<String>,

    /// Print JSON for programs, with the field `secret`
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    token: One,
}

pub(super) fn create(args: &CreateArgs) -> Result<(), Failure> {
    let new = NewToken {
        kind: args.single_use.then(|| "single_use".into()),
        description: args.description.clone().unwrap_or_default(),
        scope: args.scope.clone(),
        labels: args.labels.clone(),
        name_pattern: args.name_pattern.clone(),
        ephemeral_only: args.ephemeral_only,
        max_uses: args.max_uses,
        max_runners: args.max_runners,
        allowed_cidrs: args.allowed_cidrs.clone(),
        expires_at: None,
        expires_in: args.expires.clone(),
    };
    let broker = args.broker.broker()?;
    let issued: IssuedToken = block_on(broker.post(TOKENS, &new))?;
    let token = &issued.token;
    let what = format!(
        "token {} is created: {}, scope {}, {}",
        plain(&token.id),
        kind(token),
        plain(&token.scope),
        match &token.expires_at {
            Some(time) => format!("expires {}", until(time, SystemTime::now())),
            None => "never expires".into(),
        }
    );
    tell(&issued, &what, args.json)
}

pub(super) fn rotate(args: &RotateArgs) -> Result<(), Failure> {
    let query = args.overlap.as_deref().map(|overlap| format!("?overlap={}", escape(overlap)));
    let path = args.token.path("/rotate") + &query.unwrap_or_default();
    let broker = args.token.broker.broker()?;
    let issued: IssuedToken = block_on(broker.ask(Method::POST, &path, QUICK))?;
    let old = match &args.overlap {
        Some(overlap) => format!("goes on for {}", plain(overlap)),
        None => "is refused from now on".into(),
    };
    let what = format!("token {} has a new secret; the old one {old}", plain(&issued.token.id));
    tell(&issued, &what, args.json)
}

/// Tells people all about the secret, and programs the secret alone.
fn tell(issued: &IssuedToken, what: &str, json: bool) -> Result<(), Failure> {
    if json {
        return print(show::json(issued)?);
    }
    let secret = plain(&issued.secret);
    if io::stdout().is_terminal() {
        return print(for_people(what, &secret));
    }
    // First, so that a secret that cannot be written leaves no token behind that nobody knows of.
    complain(format!("{what}; the secret is on standard output and is not shown again"));
    print(secret)
}

fn for_people(what: &str, secret: &str) -> String {
    format!(
        "{what}\n\
         The secret is not shown again. Give it to runners, with the address at which they reach the \
         broker:\n\
         \n\
         GITEA_INSTANCE_URL=http://broker:8080\n\
         GITEA_RUNNER_REGISTRATION_TOKEN={secret}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_how_a_runner_gets_the_secret() {
        insta::assert_snapshot!(for_people("token A is created", "rb_A_s"), @r"
        token A is created
        The secret is not shown again. Give it to runners, with the address at which they reach the broker:

        GITEA_INSTANCE_URL=http://broker:8080
        GITEA_RUNNER_REGISTRATION_TOKEN=rb_A_s
        ");
    }
}
