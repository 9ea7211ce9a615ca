//! Where pages are: links are relative, and lead to nobody else's pages.

use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// The way from a page to the root of all pages.
pub(super) fn root_of(uri: &Uri) -> String {
    match uri.path().matches('/').count() {
        0 | 1 => "./".into(),
        slashes => "../".repeat(slashes - 1),
    }
}

/// Sends the browser to a page of ours.
pub(super) fn redirect(root: &str, to: &str) -> Response {
    // What is not visible ASCII was refused before, by `ours` or by the types of ids.
    let to = HeaderValue::from_str(&format!("{root}{to}"));
    let to = to.unwrap_or_else(|_| HeaderValue::from_static("./"));
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

/// The sign-in, and the way back to what was asked for.
pub(super) fn sign_in_and_back(parts: &Parts) -> String {
    let asked = parts.uri.path_and_query().map_or("", |asked| asked.as_str());
    match asked.strip_prefix('/') {
        // The sign-in takes it as it is, without decoding.
        Some(to) if parts.method.is_safe() && !to.is_empty() && ours(to) => {
            format!("sign-in?to={to}")
        }
        _ => "sign-in".into(),
    }
}

/// Whether it names a page of ours, from the root on.
pub(super) fn ours(to: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./?=&%".contains(c);
    to.chars().all(plain) && !to.starts_with('/') && !to.contains("//") && !to.contains("..")
}

/// The path of `admin.public_url`, without a slash at its end.
pub(super) fn sub_path(public_url: Option<&Uri>) -> &str {
    public_url.map_or("", |url| url.path().trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_as_many_folders_up_as_the_page_is_deep() {
        for (page, root) in [
            ("/", "./"),
            ("/events?a=/b/c", "./"),
            ("/tokens/A", "../"),
            ("/tokens/A/delete", "../../"),
            ("*", "./"),
        ] {
            assert_eq!(root_of(&page.parse().unwrap()), root, "{page}");
        }
    }

    #[test]
    fn only_pages_of_ours_are_gone_back_to() {
        for to in ["", "events", "events?token_id=A&what=token.created", "tokens/A/delete"] {
            assert!(ours(to), "{to}");
        }
        for to in ["/", "//x", "a//x", "../x", "a/../..", "x:y", "\\\\x", "a\r\nb", "a#b", "ä"] {
            assert!(!ours(to), "{to}");
        }
    }
}
