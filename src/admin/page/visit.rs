//! Whose request it is: the session's cookie, where the request came from, and what its form carries.

use std::sync::Arc;
use std::time::Instant;

use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{HOST, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};

use super::Pages;
use super::address::{redirect, root_of, sign_in_and_back, sub_path};
use super::layout::{self, Frame};
use super::session::Key;
use crate::admin::auth::Client;
use crate::admin::problem::Problem;
use crate::broker::secrets_match;
use crate::lifecycle::{By, Lifecycle};

/// A request of someone who is signed in.
pub(super) struct Visit {
    pub(super) pages: Pages,
    pub(super) by: By,
    key: Key,
    csrf: String,
    root: String,
    user: Option<String>,
}

impl Visit {
    pub(super) fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.pages.admin.lifecycle
    }

    /// What is around a page of this section; takes the notice that was left for it.
    pub(super) fn frame(&self, section: &'static str) -> Frame {
        Frame {
            section,
            csrf: Some(self.csrf.clone()),
            user: self.user.clone(),
            notice: self.pages.sessions.take_notice(&self.key),
            ..Frame::signed_out(self.root.clone())
        }
    }

    /// A page that says why it did not work.
    pub(super) fn problem(&self, problem: impl Into<Problem>) -> Response {
        layout::problem(self.frame(""), &problem.into())
    }

    /// Sends the browser to another page, named from the root of the page.
    pub(super) fn go(&self, to: &str) -> Response {
        redirect(&self.root, to)
    }

    /// The same, and says there what was done.
    pub(super) fn done(&self, notice: impl Into<String>, to: &str) -> Response {
        self.pages.sessions.leave_notice(&self.key, notice.into());
        self.go(to)
    }

    /// Id of a form that can be sent once.
    pub(super) fn new_form(&self) -> String {
        self.pages.sessions.new_form(&self.key)
    }

    /// Ends the session.
    pub(super) fn sign_out(&self) -> Response {
        self.pages.sessions.close(&self.key);
        let mut response = self.go("sign-in");
        response.headers_mut().insert(SET_COOKIE, self.pages.cookie.over());
        response
    }
}

impl FromRequestParts<Pages> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, pages: &Pages) -> Result<Self, Response> {
        let root = root_of(&parts.uri);
        let settings = pages.admin.lifecycle.settings.load();
        let Some(admin_token) = &settings.admin.token else {
            return Err(layout::closed(Frame::signed_out(root)));
        };
        let cookie = pages.cookie.read(&parts.headers);
        let found = cookie.and_then(|it| pages.sessions.find(it, admin_token, Instant::now()));
        let (Some(found), Some(client)) = (found, parts.extensions.get::<Client>()) else {
            return Err(redirect(&root, &sign_in_and_back(parts)));
        };
        Ok(Self {
            pages: pages.clone(),
            by: client.by(),
            key: found.key,
            csrf: found.csrf,
            root,
            user: client.user.clone(),
        })
    }
}

/// A form that someone who is signed in sent from a page of ours.
pub(super) struct Sent {
    pub(super) visit: Visit,
    fields: Fields,
}

/// Names and values of a form.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field's text without the white space around it; empty where it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// Whether a box is ticked.
    pub(super) fn ticked(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }
}

impl std::ops::Deref for Sent {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl Sent {
    /// Uses up the form's own id, so that a reload does nothing twice.
    ///
    /// # Errors
    /// The page to answer where it was sent before.
    #[allow(clippy::result_large_err, reason = "the error is the answer")]
    pub(super) fn only_once(&self) -> Result<(), Response> {
        if self.visit.pages.sessions.use_up(&self.visit.key, self.text("form")) {
            return Ok(());
        }
        Err(self.visit.problem(Problem::new(
            StatusCode::CONFLICT,
            "form-used",
            "This form was sent before",
            "what it asked for was done then, and is not done again; a secret is shown only once. \
             To do it again, open the form anew",
        )))
    }
}

impl FromRequest<Pages> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, pages: &Pages) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visit = Visit::from_request_parts(&mut parts, pages).await?;
        let fields = fields(Request::from_parts(parts, body), pages).await;
        let fields = fields.map_err(|problem| visit.problem(problem))?;
        if !secrets_match(visit.csrf.as_bytes(), fields.text("csrf").as_bytes()) {
            return Err(visit.problem(Problem::new(
                StatusCode::FORBIDDEN,
                "form-foreign",
                "This form is not of your session",
                "nothing was changed. Open the page again and send its form once more",
            )));
        }
        Ok(Self { visit, fields })
    }
}

/// What a form carries that no other site sent.
pub(super) async fn fields(request: Request, pages: &Pages) -> Result<Fields, Problem> {
    if !of_own_page(request.headers(), pages.public_url.as_ref()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "cross-site",
            "This was sent by another site",
            "nothing was changed. Behind a proxy, admin.public_url must be the address that the \
             browser shows",
        ));
    }
    match Form::from_request(request, pages).await {
        Ok(Form(fields)) => Ok(Fields(fields)),
        Err(rejection) => Err(Problem::of_request(rejection.body_text())),
    }
}

/// Whether a browser sends this from a page of ours. Over plain HTTP only the origin is told.
fn of_own_page(headers: &HeaderMap, public_url: Option<&Uri>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let public = public_url.and_then(|url| Some((url.scheme_str()?, url.authority()?.as_str())));
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    headers.get(HOST).is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
        || public.is_some_and(|(public_scheme, public)| {
            let port = if public_scheme == "https" { ":443" } else { ":80" };
            scheme == public_scheme
                && public.strip_suffix(port).unwrap_or(public).eq_ignore_ascii_case(authority)
        })
}

/// How the session's secret travels.
pub(super) struct Cookie {
    name: &'static str,
    attributes: String,
}

impl Cookie {
    /// As narrow as the page's address allows; `tls`: the listener speaks it, which tells where
    /// there is none.
    pub(super) fn of(public_url: Option<&Uri>, tls: bool) -> Self {
        let path = sub_path(public_url);
        let secure = public_url.map_or(tls, |url| url.scheme_str() == Some("https"));
        let name = match (secure, path) {
            (true, "") => "__Host-runner-broker",
            (true, _) => "__Secure-runner-broker",
            (false, _) => "runner-broker",
        };
        let path = if path.is_empty() { "/" } else { path };
        let secure = if secure { "; Secure" } else { "" };
        Self { name, attributes: format!("; Path={path}; HttpOnly; SameSite=Lax{secure}") }
    }

    /// Starts it.
    pub(super) fn with(&self, secret: &SecretString) -> HeaderValue {
        let mut value = self.value(secret.expose_secret(), "");
        value.set_sensitive(true);
        value
    }

    fn over(&self) -> HeaderValue {
        self.value("", "; Max-Age=0")
    }

    fn value(&self, secret: &str, further: &str) -> HeaderValue {
        let value = format!("{}={secret}{}{further}", self.name, self.attributes);
        HeaderValue::from_str(&value).expect("a path of a URI and digits are a header's value")
    }

    fn read<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let lines = headers.get_all("cookie").into_iter().filter_map(|line| line.to_str().ok());
        lines
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(name, value)| (name == self.name).then_some(value))
    }
}
