//! What Gitea's errors mean. It tells nearly all of them as HTTP 500 with a text.

use std::fmt;

use crate::connect::{Code, ConnectError};

/// A refusal of which it is certain that Gitea registered nothing. Its text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterRefusal {
    /// Gitea does not know the registration token.
    TokenNotFound,
    /// The registration token was reset, or (before Gitea 1.20) used.
    TokenInvalidated,
    /// Name or token is empty.
    MissingFields,
    /// The owner or the repository that the token was made for is gone.
    OwnerGone,
    /// Anything else.
    Other,
}

/// Texts that Gitea tells before it writes anything. What it tells later ("can't create new runner",
/// "can't update runner token status") is not here: a row may be there by then.
const DEFINITE: [(&str, RegisterRefusal); 8] = [
    ("runner registration token not found", RegisterRefusal::TokenNotFound),
    ("runner token not found", RegisterRefusal::TokenNotFound),
    ("runner registration token has been invalidated", RegisterRefusal::TokenInvalidated),
    ("runner token has already been activated", RegisterRefusal::TokenInvalidated),
    ("missing runner token, name", RegisterRefusal::MissingFields),
    ("owner of the token not found", RegisterRefusal::OwnerGone),
    ("repository of the token not found", RegisterRefusal::OwnerGone),
    ("can't generate token", RegisterRefusal::Other),
];

impl RegisterRefusal {
    /// Reads an error of Register; `None` where Gitea may have registered the runner all the same.
    #[must_use]
    pub fn of(error: &ConnectError) -> Option<Self> {
        let known = DEFINITE.iter().find(|(text, _)| error.message.contains(text));
        known
            .map(|(_, refusal)| *refusal)
            .or_else(|| refused_unread(error.code).then_some(Self::Other))
    }

    /// Whether another registration token may do.
    #[must_use]
    pub fn is_of_token(self) -> bool {
        matches!(self, Self::TokenNotFound | Self::TokenInvalidated)
    }
}

impl fmt::Display for RegisterRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenNotFound => {
                "Gitea does not know the registration token: set gitea.registration_token_file to the \
                 one that Gitea shows for this scope"
            }
            Self::TokenInvalidated => {
                "Gitea's registration token was reset: set gitea.registration_token_file to the new one"
            }
            Self::MissingFields => "Register needs a name and a registration token",
            Self::OwnerGone => {
                "the owner or repository of the registration token is gone from Gitea: set \
                 gitea.scope and gitea.registration_token_file to one that is there"
            }
            Self::Other => "Gitea refused the registration",
        })
    }
}

/// The protocol's layer answers so before Gitea's handler runs. `canceled` is a 4xx by number only: the
/// handler was at work.
fn refused_unread(code: Code) -> bool {
    code == Code::Unimplemented || (code.http_status().is_client_error() && code != Code::Canceled)
}

/// Whether Gitea says that it does not know the runner: a plain `unauthenticated`, or, before it
/// answered that, an `unknown` with gRPC's words for it inside.
#[must_use]
pub fn is_unregistered(error: &ConnectError) -> bool {
    match error.code {
        Code::Unauthenticated => true,
        Code::Unknown => {
            error.message.contains("code = Unauthenticated desc = unregistered runner")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;
    use crate::net::test_server::recorded_answer;

    fn refusal(code: Code, message: &str) -> Option<RegisterRefusal> {
        RegisterRefusal::of(&ConnectError::new(code, message))
    }

    #[test]
    fn later_failures_are_unclear() {
        assert_eq!(refusal(Code::Unknown, "can't create new runner"), None);
        assert_eq!(refusal(Code::Unknown, "can't update runner token status"), None);
        assert_eq!(refusal(Code::Internal, ""), None);
        assert_eq!(refusal(Code::Unavailable, "try again"), None);
        assert_eq!(refusal(Code::Canceled, "context canceled"), None);
    }

    #[test]
    fn early_refusals_are_definite() {
        for (text, refused) in DEFINITE {
            assert_eq!(refusal(Code::Unknown, text), Some(refused), "{text}");
        }
        assert_eq!(refusal(Code::PermissionDenied, "no"), Some(RegisterRefusal::Other));
        assert_eq!(refusal(Code::Unimplemented, "no br"), Some(RegisterRefusal::Other));
    }

    fn told(name: &str) -> ConnectError {
        let (status, body) = recorded_answer(name);
        ConnectError::parse(status, &body).unwrap()
    }

    #[test]
    fn both_forms_of_unregistered_are_recognized() {
        assert!(is_unregistered(&told("fetch-task-unregistered")));
        assert!(is_unregistered(&ConnectError::new(Code::Unauthenticated, "unregistered runner")));
    }

    #[test]
    fn other_errors_are_not_taken_for_unregistered() {
        assert!(!is_unregistered(&told("register-token-not-found")));
        assert!(!is_unregistered(&ConnectError::new(Code::Internal, "unregistered runner")));
        assert!(!is_unregistered(&ConnectError::new(Code::Unknown, "database is locked")));
    }

    #[test]
    fn only_gitea_itself_says_unregistered() {
        let said = |status: StatusCode, body: &[u8]| {
            ConnectError::parse(status, body).is_some_and(|error| is_unregistered(&error))
        };
        let (status, body) = recorded_answer("fetch-task-unregistered");
        assert!(said(status, &body));
        let real = ConnectError::new(Code::Unauthenticated, "unregistered runner").to_json();
        assert!(said(StatusCode::UNAUTHORIZED, &real));
        for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR] {
            assert!(!said(status, &real), "{status}");
        }
        for body in [
            &b"<html>sign in</html>"[..],
            br#"{"message":"unregistered runner"}"#,
            br#"{"code":401,"message":"unregistered runner"}"#,
            br#"{"code":"UNAUTHORIZED","message":"sign in"}"#,
            br#"{"code":"unknown","message":"unregistered runner"}"#,
            b"",
        ] {
            assert!(!said(StatusCode::UNAUTHORIZED, body));
        }
    }
}
