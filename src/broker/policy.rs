//! Who may enroll.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::Scope;
use crate::connect::messages::RegisterRequest;

use super::registration::INTENT_LABEL_PREFIX;
use super::secrets_match;

/// Id of the enrollment token that the settings give.
const SETTINGS_TOKEN: &str = "settings";

/// Longest name and label that are taken; Gitea cuts a name at 255 characters.
const MAX_TEXT: usize = 255;
/// Most labels of one runner.
const MAX_LABELS: usize = 256;

/// Why a Register is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Unknown and wrong tokens are not told apart.
    #[error(
        "the enrollment token is not known here; set the runner's registration token to one that \
         the broker gave out (GITEA_RUNNER_REGISTRATION_TOKEN)"
    )]
    Token,
    /// The one secret that must not be out there.
    #[error(
        "this is Gitea's own registration token; the broker takes only its enrollment tokens: give \
         the runner one of those, and reset Gitea's token, since a runner has seen it"
    )]
    RegistrationToken,
    /// The token was switched off.
    #[error(
        "the enrollment token is disabled; ask the broker's admin for another, or to enable it"
    )]
    Disabled,
    /// Its time is over.
    #[error("the enrollment token has expired; ask the broker's admin for a new one")]
    Expired,
    /// It has admitted as often as it may.
    #[error(
        "the enrollment token is used up; ask the broker's admin for a new one, or for one that is \
         reusable"
    )]
    UsedUp,
    /// As many runners as it allows are alive.
    #[error(
        "{0} live runners came by this enrollment token, and it allows no more at once; deregister \
         one, or ask the broker's admin for another token"
    )]
    TooManyRunners(u32),
    /// A label that is not on the token's list.
    #[error(
        "the enrollment token does not allow the label {0:?}; take it out of the runner's labels, or \
         ask the broker's admin to allow it"
    )]
    Label(String),
    /// The name does not match.
    #[error(
        "the enrollment token allows only runners whose name matches {0:?}; rename the runner \
         (GITEA_RUNNER_NAME or --name)"
    )]
    Name(String),
    /// The runner would stay.
    #[error(
        "the enrollment token allows only ephemeral runners; register with --ephemeral \
         (GITEA_RUNNER_EPHEMERAL=1)"
    )]
    NotEphemeral,
    /// It came from elsewhere.
    #[error("the enrollment token is not for runners at the address {0}")]
    Address(IpAddr),
    /// The settings do not name its scope any more.
    #[error("the enrollment token is for the scope {0}, which the broker does not serve any more")]
    Scope(Scope),
    /// Only reusable tokens are exchanged.
    #[error("only a reusable enrollment token can be exchanged; register with this one")]
    NotReusable,
    /// Too many wrong tokens came from there.
    #[error("too many wrong tokens came from this address; try again in {} s", .0.as_secs().max(1))]
    Throttled(Duration),
    /// Something that Gitea would refuse as well, or that would be taken for the broker's own.
    #[error("{0}")]
    Request(String),
}

/// The secrets that a presented token is compared with.
pub struct Tokens<'a> {
    /// The enrollment token given by settings.
    pub enrollment: &'a [u8],
    /// Gitea's registration token.
    pub registration: &'a [u8],
}

/// Decides on a Register. The answer is the id of the enrollment token.
///
/// # Errors
/// Why it is refused, in words for the one who set the runner up.
pub fn admit(request: &RegisterRequest, tokens: &Tokens<'_>) -> Result<&'static str, Refusal> {
    // Both are compared before either decides, so that the time does not tell which one was near.
    let known = secrets_match(tokens.enrollment, request.token.as_bytes());
    let registration = secrets_match(tokens.registration, request.token.as_bytes());
    if registration {
        return Err(Refusal::RegistrationToken);
    }
    if !known {
        return Err(Refusal::Token);
    }
    if request.name.is_empty() {
        return Err(Refusal::Request(
            "the runner has no name; set GITEA_RUNNER_NAME (or --name)".into(),
        ));
    }
    if request.name.len() > 4 * MAX_TEXT || request.name.contains(char::is_control) {
        return Err(Refusal::Request(
            "the runner's name is too long or has control characters; choose a plain name of up to \
             255 characters"
                .into(),
        ));
    }
    labels(&request.labels)?;
    Ok(SETTINGS_TOKEN)
}

/// Decides on the labels of a Register or a Declare.
///
/// # Errors
/// Which label cannot be.
pub fn labels(labels: &[String]) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        return Err(Refusal::Request(format!(
            "{} labels are too many; a runner may have {MAX_LABELS}",
            labels.len()
        )));
    }
    if labels.iter().any(|label| label.len() > MAX_TEXT || label.contains(char::is_control)) {
        return Err(Refusal::Request(format!(
            "a label is longer than {MAX_TEXT} bytes or has control characters"
        )));
    }
    if labels.iter().any(|label| label.starts_with(INTENT_LABEL_PREFIX)) {
        return Err(Refusal::Request(format!(
            "labels that begin with {INTENT_LABEL_PREFIX} are the broker's own; choose another"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Tokens<'static> = Tokens {
        enrollment: b"an-enrollment-token-of-32-chars-or-more",
        registration: b"the-registration-token-of-gitea-itself",
    };

    fn request(token: &[u8]) -> RegisterRequest {
        RegisterRequest {
            name: "builder".into(),
            token: String::from_utf8(token.to_vec()).unwrap(),
            labels: vec!["ubuntu-latest".into()],
            ..RegisterRequest::default()
        }
    }

    #[test]
    fn the_enrollment_token_admits() {
        assert_eq!(admit(&request(TOKENS.enrollment), &TOKENS), Ok(SETTINGS_TOKEN));
    }

    #[test]
    fn unknown_empty_and_nearly_right_tokens_get_one_answer() {
        for token in ["", "x", "an-enrollment-token-of-32-chars-or-mor"] {
            assert_eq!(admit(&request(token.as_bytes()), &TOKENS), Err(Refusal::Token));
        }
    }

    #[test]
    fn giteas_own_token_is_named_as_such_and_not_shown() {
        let refusal = admit(&request(TOKENS.registration), &TOKENS).unwrap_err();
        assert_eq!(refusal, Refusal::RegistrationToken);
        assert!(!refusal.to_string().contains("the-registration-token-of-gitea-itself"));
    }

    #[test]
    fn a_name_is_needed_and_checked_after_the_token() {
        let mut nameless = request(TOKENS.enrollment);
        nameless.name.clear();
        assert!(matches!(admit(&nameless, &TOKENS), Err(Refusal::Request(_))));
        nameless.token = "wrong".into();
        assert_eq!(admit(&nameless, &TOKENS), Err(Refusal::Token));
    }

    #[test]
    fn the_brokers_own_label_is_refused() {
        let refusal = labels(&["host".into(), "rb-intent-00".into()]).unwrap_err();
        assert!(refusal.to_string().contains("rb-intent-"));
        assert!(labels(&["host".into(), "my-rb-intent-x".into()]).is_ok());
    }
}
