//! `check`: what is wrong with the settings, or what will be used.

mod online;

use serde::Serialize;

use super::show::{self, columns};
use super::{Failure, SettingsArgs, block_on, complain, print};
use crate::config::{Loaded, Used};
use online::{Finding, Outcome};

/// Check the settings: show all that is wrong at once, or what will be used
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Ask Gitea too; nothing is changed there
    #[arg(long)]
    online: bool,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    for warning in &loaded.warnings {
        complain(format!("warning: {warning}"));
    }
    let findings = if args.online { Some(block_on(online::ask(&loaded.settings))?) } else { None };
    if args.json {
        print(show::json(&Answer::of(&loaded, findings.as_deref()))?)?;
    } else {
        print(table(&loaded.used))?;
        if let Some(findings) = &findings {
            print(format!("\n{}", asked(findings)))?;
        }
    }
    let findings = findings.iter().flatten();
    match findings.filter(|finding| finding.outcome == Outcome::Failed).count() {
        0 => Ok(()),
        count => {
            let message = format!("{count} of the questions to Gitea failed; see above");
            Err(Failure::new(Failure::UNAVAILABLE, message))
        }
    }
}

/// The answer of `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    settings: &'a [Used],
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<&'a [Finding]>,
}

impl<'a> Answer<'a> {
    fn of(loaded: &'a Loaded, online: Option<&'a [Finding]>) -> Self {
        Self { settings: &loaded.used, warnings: &loaded.warnings, online }
    }
}

fn table(used: &[Used]) -> String {
    let mut table = columns(["SETTING", "VALUE", "FROM"]);
    for Used { key, value, origin } in used {
        table.add_row([key, value, origin]);
    }
    table.trim_fmt()
}

fn asked(findings: &[Finding]) -> String {
    let mut table = columns(["ASKED", "OUTCOME", "DETAIL"]);
    let mut scopes: Vec<_> = findings.iter().filter_map(|finding| finding.scope.as_ref()).collect();
    scopes.dedup();
    for Finding { what, scope, outcome, detail } in findings {
        // With one scope alone, it goes without saying.
        let what = match scope {
            Some(scope) if scopes.len() > 1 => format!("{what}, {scope}"),
            _ => (*what).to_owned(),
        };
        table.add_row([&what, outcome.as_str(), &show::plain(detail)]);
    }
    table.trim_fmt()
}
