//! Lines to copy, with which a runner joins by a new token.

use secrecy::{ExposeSecret, SecretString};

use crate::admin::Admin;
use crate::lifecycle::Issued;

/// The image that runners are commonly started from.
const IMAGE: &str = "gitea/runner:latest";

/// How a runner is started with a token.
pub(super) struct Lines {
    /// `compose.yaml`
    pub(super) compose: String,
    /// One command.
    pub(super) docker: String,
    /// The Secret.
    pub(super) kubernetes_secret: String,
    /// The runner's container.
    pub(super) kubernetes_container: String,
    /// The address is a placeholder.
    pub(super) address_is_unknown: bool,
}

impl Lines {
    pub(super) fn of(admin: &Admin, issued: &Issued) -> Self {
        let settings = admin.lifecycle.settings.load();
        let public = settings.listen.public_url.as_ref();
        let url = match public {
            Some(url) => url.to_string().trim_end_matches('/').to_owned(),
            None => format!("{}://BROKER:{}", settings.listen.scheme(), admin.runners.port()),
        };
        let policy = &issued.token.token.policy;
        let name = name(policy.name_pattern.as_deref());
        Self {
            address_is_unknown: public.is_none(),
            ..lines(&url, &issued.secret, &name, policy.ephemeral_only)
        }
    }
}

fn lines(url: &str, secret: &SecretString, name: &str, ephemeral: bool) -> Lines {
    let secret = secret.expose_secret();
    let only = |text: &'static str| if ephemeral { text } else { "" };
    let compose = format!(
        r#"services:
  runner:
    image: {IMAGE}
    restart: unless-stopped
    environment:
      GITEA_INSTANCE_URL: "{url}"
      GITEA_RUNNER_REGISTRATION_TOKEN: "{secret}"
      GITEA_RUNNER_NAME: "{name}"
{}    volumes:
      - /var/run/docker.sock:/var/run/docker.sock
"#,
        only("      GITEA_RUNNER_EPHEMERAL: \"1\"\n")
    );
    let docker = format!(
        r"docker run --detach --restart unless-stopped --name '{name}' \
  --env GITEA_INSTANCE_URL='{url}' \
  --env GITEA_RUNNER_REGISTRATION_TOKEN='{secret}' \
  --env GITEA_RUNNER_NAME='{name}' \
{}  --volume /var/run/docker.sock:/var/run/docker.sock \
  {IMAGE}
",
        only("  --env GITEA_RUNNER_EPHEMERAL=1 \\\n")
    );
    let kubernetes_secret = format!(
        r#"apiVersion: v1
kind: Secret
metadata:
  name: runner-enrollment
stringData:
  token: "{secret}"
"#
    );
    let kubernetes_container = format!(
        r#"- name: runner
  image: {IMAGE}
  env:
    - name: GITEA_INSTANCE_URL
      value: "{url}"
    - name: GITEA_RUNNER_REGISTRATION_TOKEN
      valueFrom:
        secretKeyRef:
          name: runner-enrollment
          key: token
    - name: GITEA_RUNNER_NAME
      value: "{name}"
{}"#,
        only("    - name: GITEA_RUNNER_EPHEMERAL\n      value: \"1\"\n")
    );
    Lines { compose, docker, kubernetes_secret, kubernetes_container, address_is_unknown: false }
}

/// A name that fits the pattern, and that neither YAML nor a shell takes for anything else.
fn name(pattern: Option<&str>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.*?".contains(c);
    match pattern {
        Some("*") | None => "builder-1".into(),
        Some(pattern) if pattern.chars().all(plain) => pattern.replace(['*', '?'], "1"),
        Some(_) => "NAME".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_fits_and_does_no_harm() {
        assert_eq!(name(None), "builder-1");
        assert_eq!(name(Some("*")), "builder-1");
        assert_eq!(name(Some("ci-*-?")), "ci-1-1");
        for pattern in ["'; rm -rf /", "a\"b", "$(id)", "a b", "ä*"] {
            assert_eq!(name(Some(pattern)), "NAME", "{pattern}");
        }
    }

    #[test]
    fn an_ephemeral_runner_is_told_to_be_one() {
        let of = |ephemeral| lines("http://b", &"rb_a_s".into(), "builder-1", ephemeral);
        for text in [of(true).compose, of(true).docker, of(true).kubernetes_container] {
            assert!(text.contains("GITEA_RUNNER_EPHEMERAL"), "{text}");
        }
        assert!(!of(false).compose.contains("EPHEMERAL"));
    }

    #[test]
    fn each_names_the_address_and_the_secret() {
        let lines = lines("http://broker:8080", &"rb_Abc_secret".into(), "ci-1", true);
        for text in [&lines.compose, &lines.docker] {
            assert!(
                text.contains("rb_Abc_secret") && text.contains("http://broker:8080"),
                "{text}"
            );
        }
        assert!(lines.kubernetes_secret.contains("rb_Abc_secret"));
        assert!(lines.kubernetes_container.contains("http://broker:8080"));
        assert!(!lines.kubernetes_container.contains("rb_Abc_secret"));
        insta::assert_snapshot!(lines.docker, @r"
        docker run --detach --restart unless-stopped --name 'ci-1' \
          --env GITEA_INSTANCE_URL='http://broker:8080' \
          --env GITEA_RUNNER_REGISTRATION_TOKEN='rb_Abc_secret' \
          --env GITEA_RUNNER_NAME='ci-1' \
          --env GITEA_RUNNER_EPHEMERAL=1 \
          --volume /var/run/docker.sock:/var/run/docker.sock \
          gitea/runner:latest
        ");
    }
}
