//! `check`: what is wrong with the settings, or what will be used.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::{Failure, SettingsArgs, complain, print};
use crate::config::{Loaded, Used};

/// Check the settings: show all that is wrong at once, or what will be used
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    for warning in &loaded.warnings {
        complain(format!("warning: {warning}"));
    }
    if args.json { print(json(&loaded)?) } else { print(table(&loaded.used)) }
}

/// The answer of `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    settings: &'a [Used],
    warnings: &'a [String],
}

fn json(loaded: &Loaded) -> Result<String, Failure> {
    let answer = Answer { settings: &loaded.used, warnings: &loaded.warnings };
    serde_json::to_string_pretty(&answer).map_err(|error| Failure::new(Failure::INTERNAL, error))
}

fn table(used: &[Used]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["SETTING", "VALUE", "FROM"]);
    for Used { key, value, origin } in used {
        table.add_row([key, value, origin]);
    }
    table.trim_fmt()
}
