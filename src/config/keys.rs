//! The names of settings: what is known, how it is called in the environment, and what was
//! perhaps meant.

/// Every key but the labels, which are free below `labels.`.
pub(super) const KEYS: &[&str] = &[
    "listen.runners",
    "listen.public_url",
    "listen.trusted_proxies",
    "listen.pass",
    "listen.tls.cert",
    "listen.tls.key",
    "listen.tls.client_ca",
    "limits.connections",
    "limits.connections_per_peer",
    "limits.requests",
    "limits.requests_per_peer",
    "limits.requests_per_runner",
    "limits.streams",
    "limits.resets",
    "limits.headers",
    "limits.header_bytes",
    "limits.head_timeout",
    "limits.idle_timeout",
    "limits.body_timeout",
    "limits.write_timeout",
    "limits.message_bytes",
    "limits.message_ratio",
    "limits.message_timeout",
    "limits.registrations",
    "limits.admin_connections",
    "admin.listen",
    "admin.socket",
    "admin.token",
    "admin.token_file",
    "admin.public_url",
    "admin.trusted_proxies",
    "admin.user_header",
    "admin.allow_cidrs",
    "admin.tls.cert",
    "admin.tls.key",
    "admin.tls.client_ca",
    "gitea.url",
    "gitea.scope",
    "gitea.registration_token",
    "gitea.registration_token_file",
    "gitea.api_token",
    "gitea.api_token_file",
    "gitea.ca_file",
    "gitea.client_cert_file",
    "gitea.client_key_file",
    "gitea.lost_wakeup_workaround",
    "enrollment.token",
    "enrollment.token_file",
    "credentials.path",
    "credentials.address",
    "credentials.mode",
    "credentials.uid",
    "credentials.gid",
    "lease.expire_after",
    "lease.revive_within",
    "shutdown.deregister",
    "shutdown.busy",
    "shutdown.drain_timeout",
    "shutdown.deadline",
    "store.url",
    "store.keep_events",
    "log.format",
    "log.level",
];

/// The section whose keys are free.
pub(super) const LABELS: &str = "labels";

/// The tables that declare tokens, which only the file can hold.
pub(super) const TOKENS: &str = "enrollment.tokens";

/// The section whose own tokens are the default scope's.
pub(super) const GITEA: &str = "gitea";

/// The tables that name further scopes, which only the file can hold.
pub(super) const SCOPES: &str = "gitea.scopes";

/// What the keys of a further scope begin with.
pub(super) fn of_scope(scope: &str) -> String {
    format!("{SCOPES}[{scope}]")
}

/// The tables that declare runners, which only the file can hold.
pub(super) const RUNNERS: &str = "runners";

/// Begins the name of each setting in the environment.
pub(super) const PREFIX: &str = "RUNNER_BROKER__";

/// Names that users of the runner's image know.
const FAMILIAR: &[(&str, &str)] = &[
    ("GITEA_INSTANCE_URL", "gitea.url"),
    ("GITEA_RUNNER_REGISTRATION_TOKEN", "gitea.registration_token"),
    ("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "gitea.registration_token_file"),
    ("GITEA_API_TOKEN", "gitea.api_token"),
    ("GITEA_API_TOKEN_FILE", "gitea.api_token_file"),
];

/// The secrets among the keys.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(
        key,
        "admin.token" | "gitea.registration_token" | "gitea.api_token" | "enrollment.token"
    )
}

/// The keys with several values.
pub(super) fn is_list(key: &str) -> bool {
    matches!(
        key,
        "listen.trusted_proxies" | "listen.pass" | "admin.trusted_proxies" | "admin.allow_cidrs"
    )
}

/// Whether a key is, or may be meant as, the tables that declare tokens or a part of them.
pub(super) fn is_tokens(key: &str) -> bool {
    is_of_tables(key, TOKENS)
}

/// The same for the tables that declare runners.
pub(super) fn is_runners(key: &str) -> bool {
    is_of_tables(key, RUNNERS)
}

/// The same for the tables that name further scopes.
pub(super) fn is_scopes(key: &str) -> bool {
    is_of_tables(key, SCOPES)
}

fn is_of_tables(key: &str, tables: &str) -> bool {
    key.strip_prefix(tables)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.', '[']))
}

pub(super) fn is_known(key: &str) -> bool {
    KEYS.contains(&key) || label_of(key).is_some()
}

pub(super) fn is_section(name: &str) -> bool {
    name == LABELS || KEYS.iter().any(|key| section_of(key) == name)
}

/// Whether a key is a section within a section, such as `listen.tls`.
pub(super) fn is_subsection(key: &str) -> bool {
    KEYS.iter().any(|known| known.rsplit_once('.').is_some_and(|(section, _)| section == key))
        && key.contains('.')
}

/// The name of the label that a key gives the full form of.
pub(super) fn label_of(key: &str) -> Option<&str> {
    key.strip_prefix(LABELS)?.strip_prefix('.')
}

pub(super) fn section_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

/// The key that a name in the environment stands for, known or not; `None`: not one of ours.
pub(super) fn of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?.to_lowercase();
    Some(match rest.split_once("__") {
        // What follows is a label's name, as it is.
        Some((LABELS, label)) => format!("{LABELS}.{label}"),
        _ => rest.replace("__", "."),
    })
}

/// The key that a name of the runner's image stands for.
pub(super) fn of_familiar(name: &str) -> Option<&'static str> {
    FAMILIAR.iter().find(|(familiar, _)| *familiar == name).map(|(_, key)| *key)
}

/// How a key is called in the environment.
pub(super) fn variable(key: &str) -> String {
    let spelled = match label_of(key) {
        Some(label) => format!("{LABELS}__{label}"),
        None => key.replace('.', "__"),
    };
    format!("{PREFIX}{}", spelled.to_uppercase())
}

/// The known key that an unknown one is a slip of.
pub(super) fn meant(unknown: &str) -> Option<&'static str> {
    closest(unknown, KEYS.iter().chain(&[TOKENS, SCOPES, RUNNERS]))
}

/// What to say of an unknown key.
pub(super) fn unknown(meant: Option<&str>) -> String {
    match meant {
        Some(meant) => format!("is unknown: did you mean {meant}?"),
        None => "is unknown: remove it, or correct its name".into(),
    }
}

/// The one of these names that an unknown one is a slip of.
pub(super) fn closest(
    unknown: &str,
    names: impl Iterator<Item = &'static &'static str>,
) -> Option<&'static str> {
    let unknown = unknown.to_lowercase();
    names
        .map(|key| (strsim::damerau_levenshtein(&unknown, key), *key))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_translate_both_ways() {
        for key in KEYS {
            assert_eq!(of_variable(&variable(key)).as_deref(), Some(*key));
            assert!(is_section(section_of(key)));
            assert!(!is_subsection(key) && !is_subsection(section_of(key)), "{key}");
            assert!(!is_tokens(key) && !is_scopes(key) && !is_runners(key), "{key}");
        }
        assert_eq!(of_variable("RUNNER_BROKER__Log__LEVEL").as_deref(), Some("log.level"));
        assert_eq!(
            of_variable("RUNNER_BROKER__LABELS__UBUNTU-22.04").as_deref(),
            Some("labels.ubuntu-22.04")
        );
        for (label, name) in [("labels.a__b", "LABELS__A__B"), ("labels.a.b", "LABELS__A.B")] {
            assert_eq!(variable(label), format!("{PREFIX}{name}"));
            assert_eq!(of_variable(&variable(label)).as_deref(), Some(label));
        }
        assert_eq!(variable("listen.tls.cert"), "RUNNER_BROKER__LISTEN__TLS__CERT");
        assert_eq!(of_variable("RUNNER_BROKER_PORT"), None);
        assert!(is_subsection("listen.tls") && is_subsection("admin.tls"));
        assert!(FAMILIAR.iter().all(|(_, key)| KEYS.contains(key)));
    }

    #[test]
    fn only_small_slips_are_guessed() {
        assert_eq!(meant("listen.runers"), Some("listen.runners"));
        assert_eq!(meant("enrolment.token_file"), Some("enrollment.token_file"));
        assert_eq!(meant("enrolment.tokens"), Some("enrollment.tokens"));
        assert_eq!(meant("runner"), Some("runners"));
        assert_eq!(meant("Log.Level"), Some("log.level"));
        assert_eq!(meant("leases.after"), None);
        assert_eq!(meant(""), None);
    }
}
