//! Enrollment tokens.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderMap, LOCATION};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Json, JsonOrNone, Path, Query};
use super::paging::{Page, limit, place};
use crate::admin::auth::{Client, bearer};
use crate::admin::problem::Problem;
use crate::admin::view::{IssuedToken, NewChild, NewToken, Token};
use crate::admin::{Admin, draft};
use crate::config::Setting;
use crate::lifecycle::{By, TokenError, TokenNow};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// As the link to the next page has it.
    #[param(pattern = "^[0-9]{1,15}-[A-Za-z0-9][A-Za-z0-9._-]*$")]
    cursor: Option<String>,
}

/// All tokens, oldest first
#[utoipa::path(
    get, path = "/api/v1/tokens", operation_id = "listTokens", tag = "tokens",
    params(Listing),
    responses((status = 200, description = "One page", body = Vec<Token>, headers(
        ("Link" = String, description = "The next page, as a relative reference; absent on the last"),
    ))),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(listing): Query<Listing>,
) -> Result<Page<Token>, Problem> {
    let limit = limit(listing.limit)?;
    let after = place(listing.cursor.as_deref(), |cursor| {
        let (millis, id) = cursor.split_once('-')?;
        Some((millis.parse::<u128>().ok()?, id.to_owned()))
    })?;
    let mut all = admin.lifecycle.tokens();
    all.sort_by_cached_key(position);
    all.retain(|token| after.as_ref().is_none_or(|after| position(token) > *after));
    let page = Page::cut(all, limit, "tokens", &[], |last| {
        let (millis, id) = position(last);
        format!("{millis}-{id}")
    });
    Ok(page.map(|token| Token::of(&token)))
}

/// Make a token
///
/// The answer holds its secret, this once.
#[utoipa::path(
    post, path = "/api/v1/tokens", operation_id = "createToken", tag = "tokens",
    request_body = NewToken,
    responses(
        (status = 201, description = "The token with its secret", body = IssuedToken, headers(
            ("Location" = String, description = "Where the token is, as a relative reference"),
        )),
        (status = 409, description = "There are too many tokens"),
        (status = 413, description = "The body is longer than 64 KiB"),
        (status = 415, description = "The body is no JSON by its content type"),
        (status = 422, description = "Such a token cannot be; `errors` names the fields"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Json(new): Json<NewToken>,
) -> Result<Response, Problem> {
    let settings = admin.lifecycle.settings.load_full();
    let draft = draft::draft(new, &settings.gitea, SystemTime::now());
    let draft = draft.map_err(Problem::of_fields)?;
    let issued = IssuedToken::of(&admin.lifecycle.create_token(draft, &by).await?);
    let location = format!("tokens/{}", issued.token.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Secret(issued)).into_response())
}

/// One token
#[utoipa::path(
    get, path = "/api/v1/tokens/{id}", operation_id = "showToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1)),
    responses(
        (status = 200, description = "The token", body = Token),
        (status = 404, description = "There is none of this id"),
    ),
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.token(&id))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Reach {
    /// Also deregisters the runners that came by it, each when it has ended the task in hand.
    #[serde(default)]
    #[param(default = false)]
    cascade: bool,
}

/// End a token for good
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", operation_id = "deleteToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1), Reach),
    responses(
        (status = 200, description = "The token as it was", body = Token),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
    Query(reach): Query<Reach>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.delete_token(&id, reach.cascade, &by).await)
}

/// Switch a token on
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/enable", operation_id = "enableToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1)),
    responses(
        (status = 200, description = "The token as it is now", body = Token),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.enable_token(&id, &by).await)
}

/// Switch a token off
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/disable", operation_id = "disableToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1), Reach),
    responses(
        (status = 200, description = "The token as it is now", body = Token),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn disable(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
    Query(reach): Query<Reach>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.disable_token(&id, reach.cascade, &by).await)
}

/// Make a single-use token reusable
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/pin", operation_id = "pinToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1)),
    responses(
        (status = 200, description = "The token as it is now", body = Token),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it, or it was exchanged for another"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn pin(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.pin_token(&id, &by).await)
}

/// Make a reusable token single-use
///
/// One that has admitted a runner is then used up.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/unpin", operation_id = "unpinToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1)),
    responses(
        (status = 200, description = "The token as it is now", body = Token),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn unpin(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
) -> Result<axum::Json<Token>, Problem> {
    told(admin.lifecycle.unpin_token(&id, &by).await)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Rotation {
    /// How long the old secret goes on, a year at most; left out: not at all.
    #[param(pattern = r"^[\s0-9a-zA-Zµ.]+$", example = "1h")]
    overlap: Option<String>,
}

/// Give a token a new secret
///
/// The answer holds it, this once.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/rotate", operation_id = "rotateToken", tag = "tokens",
    params(("id" = String, Path, description = "Its id", min_length = 1), Rotation),
    responses(
        (status = 200, description = "The token with its new secret", body = IssuedToken),
        (status = 404, description = "There is none of this id"),
        (status = 409, description = "The settings declare it"),
        (status = 422, description = "Such an overlap cannot be"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn rotate(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
    Query(rotation): Query<Rotation>,
) -> Result<Secret, Problem> {
    let overlap = match rotation.overlap.as_deref().map(Duration::parse) {
        None => Duration::ZERO,
        Some(Ok(overlap)) => overlap,
        Some(Err(detail)) => return Err(TokenError::Invalid(vec![("overlap", detail)]).into()),
    };
    let issued = admin.lifecycle.rotate_token(&id, overlap, &by).await?;
    Ok(Secret(IssuedToken::of(&issued)))
}

/// Exchange a reusable token for a short-lived single-use child
///
/// For autoscalers and start scripts, whose runners must not see the reusable token. The child allows
/// nothing that its parent does not. The answer holds its secret, this once.
#[utoipa::path(
    post, path = "/api/v1/tokens/exchange", operation_id = "exchangeToken", tag = "tokens",
    request_body = Option<NewChild>,
    security(("enrollmentToken" = [])),
    responses(
        (status = 201, description = "The child with its secret", body = IssuedToken),
        (status = 400, description = "The request cannot be read"),
        (status = 401, description = "This is no enrollment token of the broker"),
        (status = 403, description = "The enrollment token does not allow it"),
        (status = 413, description = "The body is longer than 64 KiB"),
        (status = 415, description = "The body is no JSON by its content type"),
        (status = 422, description = "Such a child cannot be; `errors` names the fields"),
        (status = 429, description = "Too many wrong tokens, or too many children that nobody used"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn exchange(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    JsonOrNone(new): JsonOrNone<NewChild>,
) -> Result<Response, Problem> {
    let peer = client.addr.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let Some(presented) = bearer(&headers) else {
        return Err(Problem::unauthorized(
            "give an enrollment token: `Authorization: Bearer rb_…`",
        ));
    };
    let wish = draft::exchange(new).map_err(Problem::of_fields)?;
    // One that is no text is no token, and is refused as such.
    let presented = String::from_utf8_lossy(presented);
    let issued = admin.lifecycle.exchange_token(&presented, wish, peer).await?;
    Ok((StatusCode::CREATED, Secret(IssuedToken::of(&issued))).into_response())
}

/// An answer that nobody on the way may keep.
pub(super) struct Secret(IssuedToken);

impl IntoResponse for Secret {
    fn into_response(self) -> Response {
        ([(CACHE_CONTROL, "no-store")], axum::Json(self.0)).into_response()
    }
}

fn told(outcome: Result<TokenNow, TokenError>) -> Result<axum::Json<Token>, Problem> {
    Ok(axum::Json(Token::of(&outcome?)))
}

/// Where a token stands in the list, whatever tokens come and go.
fn position(now: &TokenNow) -> (u128, String) {
    let since = now.token.created_at.duration_since(SystemTime::UNIX_EPOCH);
    (since.map_or(0, |since| since.as_millis()), now.token.id.clone())
}
