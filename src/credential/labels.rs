//! Full labels from bare names. A bare label in a runner file means *run on the host*, so none is ever written.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// Labels with neither a form of their own nor one in the settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct MissingForms(pub Vec<String>);

impl fmt::Display for MissingForms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<String> = self.0.iter().map(|label| setting(label)).collect();
        write!(
            f,
            "it is not known how to run jobs for these labels: set {} (for example to \"docker://node:20\", \
             or \"host\"); a bare label in a runner file would run jobs on the runner's host",
            settings.join(", ")
        )
    }
}

/// The labels as a runner file needs them, in the same order; none where there are none.
///
/// # Errors
/// Some label has no form: no file may be written.
pub fn full_labels(
    labels: &[String],
    forms: &BTreeMap<String, String>,
) -> Result<Vec<String>, MissingForms> {
    let mut missing = Vec::new();
    let mut full = Vec::with_capacity(labels.len());
    for label in labels {
        if label.split_once(':').is_some_and(|(name, form)| !name.is_empty() && is_form(form)) {
            full.push(label.clone());
        } else if let Some(form) = forms.get(label).filter(|form| is_form(form)) {
            full.push(format!("{label}:{form}"));
        } else {
            missing.push(label.clone());
        }
    }
    if missing.is_empty() { Ok(full) } else { Err(MissingForms(missing)) }
}

/// Whether this may follow a label's name: `host`, `docker:…`. The runner passes over labels of any other form.
#[must_use]
pub fn is_form(text: &str) -> bool {
    match text.split_once(':') {
        None => text == "host",
        Some((schema, argument)) => match schema {
            "docker" => !argument.trim_start_matches('/').is_empty(),
            _ => schema == "host",
        },
    }
}

/// The name of the setting as TOML wants it.
fn setting(label: &str) -> String {
    let bare = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare && !label.is_empty() { format!("labels.{label}") } else { format!("labels.{label:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn forms(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, form)| (name.to_string(), form.to_string())).collect()
    }

    #[test]
    fn forms_come_from_the_label_or_the_settings() {
        let labels =
            strings(&["ubuntu", "own:docker://own:1", "mac:host", "metal", "old:docker:x"]);
        let forms = forms(&[("ubuntu", "docker://node:20"), ("metal", "host"), ("own", "host")]);
        let full = full_labels(&labels, &forms).unwrap();
        assert_eq!(
            full,
            [
                "ubuntu:docker://node:20",
                "own:docker://own:1",
                "mac:host",
                "metal:host",
                "old:docker:x"
            ]
        );
    }

    #[test]
    fn each_missing_setting_is_named() {
        let labels = strings(&["ubuntu", "ubuntu-22.04", "mac:host", "gpu"]);
        let error = full_labels(&labels, &forms(&[("ubuntu", "docker://node:20")])).unwrap_err();
        assert_eq!(error.0, ["ubuntu-22.04", "gpu"]);
        let text = error.to_string();
        assert!(text.contains("labels.\"ubuntu-22.04\", labels.gpu"), "{text}");
    }

    #[test]
    fn what_the_runner_would_pass_over_or_take_for_the_host_is_missing() {
        for label in ["", "a", "a:", "a:vm://x", ":host", "a:docker", "a:docker://", "a:Host"] {
            assert_eq!(full_labels(&strings(&[label]), &forms(&[])).unwrap_err().0, [label]);
        }
        // A setting that is no form helps nobody.
        assert!(full_labels(&strings(&["a"]), &forms(&[("a", "node:20")])).is_err());
    }

    #[test]
    fn no_labels_are_no_error() {
        assert_eq!(full_labels(&[], &forms(&[])).unwrap(), Vec::<String>::new());
    }
}
