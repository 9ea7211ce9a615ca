//! What gives a token its secret: creation and rotation. The secret is in the answer to the form and
//! nowhere else, and each form makes one only once.

use std::time::{Duration, SystemTime};

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::ExposeSecret;

use super::layout::{self, Frame};
use super::lines::Lines;
use super::shown::TokenRow;
use super::tokens::{Id, changeable};
use super::visit::{Fields, Sent, Visit};
use crate::admin::draft::draft;
use crate::admin::problem::{FieldError, Problem};
use crate::admin::view::NewToken;
use crate::broker::token::{MAX_DESCRIPTION, MAX_TEXT};
use crate::lifecycle::Issued;

/// A choice that is offered: what the form says, and what the page says.
type Choice = (&'static str, &'static str);

const LIVES: [Choice; 7] = [
    ("", "Never"),
    ("1h", "In 1 hour"),
    ("12h", "In 12 hours"),
    ("1day", "In 1 day"),
    ("7days", "In 7 days"),
    ("30days", "In 30 days"),
    ("90days", "In 90 days"),
];
const OVERLAPS: [Choice; 5] = [
    ("0s", "Not at all: it ends now"),
    ("1h", "For 1 hour"),
    ("12h", "For 12 hours"),
    ("1day", "For 1 day"),
    ("7days", "For 7 days"),
];

/// What is wrong with the fields.
type Wrong = Vec<FieldError>;

/// One field of a form.
struct Field {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    look: Look,
    /// What was typed.
    value: String,
    wrong: Option<String>,
}

enum Look {
    Line { longest: usize },
    Lines,
    Number,
}

#[derive(Template)]
#[template(path = "token_new.html")]
struct NewPage {
    frame: Frame,
    /// The form's own id.
    form: String,
    /// The scopes to choose from; one is no choice.
    scopes: Vec<String>,
    scope: String,
    single_use: bool,
    ephemeral_only: bool,
    life: String,
    lives: &'static [Choice],
    description: Field,
    expires_in: Field,
    who: Vec<Field>,
    limits: Vec<Field>,
    /// What is wrong and belongs to none of the fields.
    further: Vec<String>,
}

impl NewPage {
    fn of(visit: &Visit, fields: &Fields, wrong: &Wrong) -> Self {
        let field = |name, label, hint, look| {
            let of_it = wrong.iter().find(|wrong| wrong.field == name);
            let value = fields.text(name).to_owned();
            Field { name, label, hint, look, value, wrong: of_it.map(|it| it.detail.clone()) }
        };
        let settings = visit.lifecycle().settings.load();
        let served = settings.gitea.served();
        let mut page = Self {
            frame: visit.frame("tokens"),
            form: visit.new_form(),
            scopes: served.map(|served| served.scope.to_string()).collect(),
            scope: fields.text("scope").to_owned(),
            single_use: fields.text("kind") == "single_use",
            ephemeral_only: fields.ticked("ephemeral_only"),
            life: fields.text("life").to_owned(),
            lives: &LIVES,
            description: field("description", "Description", DESCRIPTION, line(MAX_DESCRIPTION)),
            expires_in: field("expires_in", "Another time span", EXPIRES_IN, line(64)),
            who: vec![
                field("labels", "Labels", LABELS, Look::Lines),
                field("name_pattern", "Name pattern", NAME_PATTERN, line(MAX_TEXT)),
                field("allowed_cidrs", "Networks", NETWORKS, Look::Lines),
            ],
            limits: vec![
                field("max_uses", "Runners in all", MAX_USES, Look::Number),
                field("max_runners", "Runners at once", MAX_RUNNERS, Look::Number),
            ],
            further: Vec::new(),
        };
        let shown: Vec<_> = page.fields().map(|field| field.name).collect();
        let others = wrong.iter().filter(|wrong| !shown.contains(&wrong.field.as_str()));
        page.further = others.map(|it| format!("{}: {}", it.field, it.detail)).collect();
        page
    }

    /// In the order of the page.
    fn fields(&self) -> impl Iterator<Item = &Field> {
        let first = std::iter::once(&self.description).chain(&self.who).chain(&self.limits);
        first.chain([&self.expires_in])
    }

    fn is_wrong(&self) -> bool {
        !self.further.is_empty() || self.fields().any(|field| field.wrong.is_some())
    }
}

const DESCRIPTION: &str = "What it is for, so that you know it again: “Build hosts in Berlin”.";
const LABELS: &str = "Labels that its runners may have, by their bare names: ubuntu-latest, arm64. \
                      Separate them by commas, spaces or lines. Empty: any label.";
const NAME_PATTERN: &str = "What a runner’s name must match: * is any text, ? is any one character, \
                            as in builder-*. Empty: any name.";
const NETWORKS: &str = "Where runners may register from: 10.0.0.0/8, 2001:db8::/32. Separate them \
                        by commas, spaces or lines. Empty: anywhere.";
const MAX_USES: &str = "So many registrations, then it is used up. Empty: no limit.";
const MAX_RUNNERS: &str = "So many of its runners may be registered at a time. Empty: no limit.";
const EXPIRES_IN: &str = "Goes before the choice above: 36h, 10days, 2weeks.";

fn line(longest: usize) -> Look {
    Look::Line { longest }
}

/// `GET /tokens/new`
pub(super) async fn form(visit: Visit) -> Response {
    layout::page(StatusCode::OK, &NewPage::of(&visit, &Fields::default(), &Wrong::new()))
}

/// `POST /tokens/new`
pub(super) async fn create(sent: Sent) -> Response {
    let visit = &sent.visit;
    let again = |wrong: &Wrong| {
        layout::page(StatusCode::UNPROCESSABLE_ENTITY, &NewPage::of(visit, &sent, wrong))
    };
    let settings = visit.lifecycle().settings.load_full();
    let (new, mut wrong) = new_token(&sent);
    let draft = match (draft(new, &settings.gitea, SystemTime::now()), wrong.is_empty()) {
        (Ok(draft), true) => draft,
        (made, _) => {
            wrong.extend(made.err().unwrap_or_default());
            return again(&wrong);
        }
    };
    if let Err(page) = sent.only_once() {
        return page;
    }
    match visit.lifecycle().create_token(draft, &visit.by).await {
        Ok(issued) => show_secret(visit, &issued, None),
        Err(error) => visit.problem(error),
    }
}

/// What the form asks for, without the numbers that are none.
fn new_token(fields: &Fields) -> (NewToken, Wrong) {
    let mut wrong = Wrong::new();
    let mut number = |name: &str| {
        let text = fields.text(name);
        let number = text.parse().ok();
        if number.is_none() && !text.is_empty() {
            let detail = "give a whole number, 1 or more, or leave it empty".into();
            wrong.push(FieldError { field: name.into(), detail });
        }
        number
    };
    let (max_uses, max_runners) = (number("max_uses"), number("max_runners"));
    let given = |name: &str| Some(fields.text(name).to_owned()).filter(|text| !text.is_empty());
    let list = |name: &str| -> Vec<String> {
        let parts = fields.text(name).split(|c: char| c == ',' || c.is_whitespace());
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let new = NewToken {
        kind: given("kind"),
        description: fields.text("description").to_owned(),
        scope: given("scope"),
        labels: list("labels"),
        name_pattern: given("name_pattern"),
        ephemeral_only: fields.ticked("ephemeral_only"),
        max_uses,
        max_runners,
        allowed_cidrs: list("allowed_cidrs"),
        expires_in: given("expires_in").or_else(|| given("life")),
        ..NewToken::default()
    };
    (new, wrong)
}

#[derive(Template)]
#[template(path = "token_rotate.html")]
struct RotatePage {
    frame: Frame,
    row: TokenRow,
    form: String,
    overlaps: &'static [Choice],
}

/// `GET /tokens/{id}/rotate`
pub(super) async fn ask_rotate(visit: Visit, id: Id) -> Response {
    match changeable(&visit, id) {
        Ok(token) => {
            let (frame, row, form) =
                (visit.frame("tokens"), TokenRow::of(&token), visit.new_form());
            layout::page(StatusCode::OK, &RotatePage { frame, row, form, overlaps: &OVERLAPS })
        }
        Err(problem) => visit.problem(problem),
    }
}

/// `POST /tokens/{id}/rotate`
pub(super) async fn rotate(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let token = match changeable(visit, id) {
        Ok(token) => token.token,
        Err(problem) => return visit.problem(problem),
    };
    let Ok(overlap) = humantime::parse_duration(sent.text("overlap")) else {
        return visit.problem(Problem::of_request("choose how long the old secret goes on"));
    };
    if let Err(page) = sent.only_once() {
        return page;
    }
    match visit.lifecycle().rotate_token(&token.id, overlap, &visit.by).await {
        Ok(issued) => show_secret(visit, &issued, Some(overlap)),
        Err(error) => visit.problem(error),
    }
}

#[derive(Template)]
#[template(path = "token_issued.html")]
struct IssuedPage<'a> {
    frame: Frame,
    row: TokenRow,
    secret: &'a str,
    lines: Lines,
    /// For how long the old secret goes on, where there is one.
    overlap: Option<String>,
    rotated: bool,
}

fn show_secret(visit: &Visit, issued: &Issued, overlap: Option<Duration>) -> Response {
    let rotated = overlap.is_some();
    let overlap = overlap.filter(|overlap| !overlap.is_zero());
    let page = IssuedPage {
        frame: visit.frame("tokens"),
        row: TokenRow::of(&issued.token),
        secret: issued.secret.expose_secret(),
        lines: Lines::of(&visit.pages.admin, issued),
        overlap: overlap.map(|overlap| humantime::format_duration(overlap).to_string()),
        rotated,
    };
    layout::page(StatusCode::OK, &page)
}
