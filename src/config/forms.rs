//! The values that are more than a word or a number: addresses, paths with placeholders, modes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;

use super::Address;
use super::value::Setting;

/// A duration, or `never`.
pub(super) struct Expiry(pub(super) Option<Duration>);

impl Setting for Expiry {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            _ => Duration::parse(text).map(|after| Self(Some(after))).map_err(|_| {
                format!(
                    "{text:?} is no duration: give a number with its unit, for example 10m, or \
                     \"never\""
                )
            }),
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| "never".into(), |after| after.show())
    }
}

/// A base address: http or https, no query, fragment or user; trailing slashes are dropped.
impl Setting for Uri {
    fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "for example http://gitea:3000";
        // Said first and without the value, which may hold a password.
        if text.contains('@') {
            return Err(format!("holds a user name or \"@\": give the bare address, {EXAMPLE}"));
        }
        if text.contains(['?', '#']) {
            return Err(format!(
                "holds a query or fragment: end it before \"?\" or \"#\", {EXAMPLE}"
            ));
        }
        let wrong = || format!("{text:?} is no web address: give http:// or https://, {EXAMPLE}");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https") {
            return Err(wrong());
        }
        let base = format!("{scheme}://{}", rest.trim_end_matches('/'));
        let uri: Self = base.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let port_is_wrong = authority.as_str() != authority.host() && authority.port().is_none();
        if authority.host().is_empty() || port_is_wrong {
            return Err(wrong());
        }
        Ok(uri)
    }

    fn show(&self) -> String {
        self.to_string().trim_end_matches('/').to_owned()
    }
}

impl Setting for Address {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "broker" => Ok(Self::Broker),
            "gitea" => Ok(Self::Gitea),
            url if url.contains("://") => Uri::parse(url).map(Self::Url),
            _ => Err(format!("{text:?} is unknown: give auto, broker, gitea or a web address")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Broker => "broker".into(),
            Self::Gitea => "gitea".into(),
            Self::Url(url) => url.show(),
        }
    }
}

/// The path of runner files, with its placeholders.
pub(super) struct FilePath(pub(super) String);

impl Setting for FilePath {
    fn parse(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "for example /runners/{name}/.runner";
        PathBuf::parse(text)?;
        let mut bare = text.to_owned();
        for placeholder in ["{name}", "{id}", "{uuid}"] {
            bare = bare.replace(placeholder, "x");
        }
        if bare.contains(['{', '}']) {
            return Err(format!(
                "{text:?} holds braces other than {{name}}, {{id}} and {{uuid}}: leave them out, \
                 {EXAMPLE}"
            ));
        }
        if bare.split('/').any(|part| part == "..") {
            return Err(format!("{text:?} holds \"..\": give the plain path, {EXAMPLE}"));
        }
        if matches!(bare.rsplit('/').next(), None | Some("" | ".")) {
            return Err(format!("{text:?} ends with no file name: add one, {EXAMPLE}"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// What follows the first colon of a full label. Only what the runner knows: `node:20` for
/// `docker://node:20` is an easy slip.
pub(super) struct LabelForm(pub(super) String);

impl Setting for LabelForm {
    fn parse(text: &str) -> Result<Self, String> {
        let image = |rest: &str| !rest.trim_start_matches("//").is_empty();
        let good = match text.split_once(':') {
            None => text == "host",
            Some(("docker", rest)) => image(rest),
            Some((scheme, _)) => scheme == "host",
        };
        if good && !text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} does not say where jobs run: give host, or docker:// and an image, \
                 for example docker://node:20"
            ))
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The database, from `sqlite:PATH`.
pub(super) struct StoreUrl(pub(super) PathBuf);

impl Setting for StoreUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no store: give sqlite: and an absolute path, \
                 for example sqlite:/var/lib/runner-broker/state.db"
            )
        };
        let path = text.strip_prefix("sqlite:").ok_or_else(wrong)?;
        // A URL with an empty host means the same path.
        let path = path.strip_prefix("//").unwrap_or(path);
        let file = Path::new(path);
        let plain = !path.contains(['?', '#', '\0']) && !path.ends_with('/');
        if plain && file.is_absolute() && file.file_name().is_some() {
            Ok(Self(file.into()))
        } else {
            Err(wrong())
        }
    }

    fn show(&self) -> String {
        format!("sqlite:{}", self.0.display())
    }
}

/// Permission bits. A bare TOML integer is refused: `600` and `0o600` would be different modes.
pub(super) struct Mode(pub(super) u32);

impl Setting for Mode {
    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let mode = Some(digits)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| u32::from_str_radix(digits, 8).ok())
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| {
                format!("{text:?} is no file mode: give three octal digits, for example \"0600\"")
            })?;
        if mode & 0o007 != 0 {
            return Err(format!(
                "{text:?} opens the runner's token to every user: end it with 0, for example 0640"
            ));
        }
        if mode & 0o400 == 0 {
            return Err(format!(
                "{text:?} keeps the owner from reading the file: begin it with 4 or more, \
                 for example 0600"
            ));
        }
        Ok(Self(mode))
    }

    fn show(&self) -> String {
        format!("{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::{reads, refuses};
    use super::*;

    #[test]
    fn base_addresses() {
        reads::<Uri>("http://gitea:3000", "http://gitea:3000");
        reads::<Uri>("HTTPS://git.example.com///", "https://git.example.com");
        reads::<Uri>("http://[::1]:80/sub/path//", "http://[::1]:80/sub/path");
        let wrong = [
            "",
            "gitea:3000",
            "ftp://g",
            "http://",
            "http://:80",
            "http://g:99999",
            "http://g:",
            "http://g h",
            "unix:///run/x",
        ];
        refuses::<Uri>(&wrong, "is no web address");
        refuses::<Uri>(&["http://g/?a=b", "http://g?", "http://g/#x"], "query or fragment");
    }

    #[test]
    fn an_address_with_a_password_is_refused_without_showing_it() {
        let error = Uri::parse("http://me:canary@gitea:3000").unwrap_err();
        assert!(!error.contains("canary"), "{error}");
        let error = Address::parse("http://me:canary@gitea:3000").err().unwrap();
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn addresses_of_runner_files() {
        for word in ["auto", "broker", "gitea"] {
            reads::<Address>(word, word);
        }
        reads::<Address>("http://broker:8080/", "http://broker:8080");
        refuses::<Address>(&["", "Auto", "broker:8080"], "is unknown");
    }

    #[test]
    fn paths_of_runner_files() {
        for path in ["/runners/{name}/.runner", "/data/.runner", "/r/{id}-{uuid}.json", "/r/{name}"]
        {
            reads::<FilePath>(path, path);
        }
        refuses::<FilePath>(&["", "r/{name}", "./x"], "absolute");
        refuses::<FilePath>(&["/r/{label}/x", "/r/{name", "/r/}", "/{{name}}/x"], "braces");
        refuses::<FilePath>(&["/r/../x", "/.."], "..");
        refuses::<FilePath>(&["/", "/r/", "/r/."], "no file name");
    }

    #[test]
    fn modes() {
        reads::<Mode>("0600", "0600");
        reads::<Mode>("640", "0640");
        reads::<Mode>("0o660", "0660");
        refuses::<Mode>(&["", "rw", "888", "+600", "01600", "7777777777777"], "no file mode");
        refuses::<Mode>(&["0644", "0601", "777"], "every user");
        refuses::<Mode>(&["0200", "0"], "owner");
    }

    #[test]
    fn label_forms() {
        for form in ["host", "docker://node:20", "docker:node", "host:"] {
            reads::<LabelForm>(form, form);
        }
        refuses::<LabelForm>(
            &["", "node:20", "docker", "docker:", "docker://", "docker://a b", "vm:x", "Host"],
            "does not say where jobs run",
        );
    }

    #[test]
    fn stores() {
        reads::<StoreUrl>("sqlite:/var/lib/state.db", "sqlite:/var/lib/state.db");
        reads::<StoreUrl>("sqlite:///var/lib/state.db", "sqlite:/var/lib/state.db");
        refuses::<StoreUrl>(
            &[
                "",
                "/state.db",
                "sqlite:",
                "sqlite:state.db",
                "sqlite://host/x",
                "sqlite:/x?mode=ro",
                "sqlite:/",
                "sqlite:/x/",
                "postgres://x",
                "sqlite::memory:",
            ],
            "is no store",
        );
    }
}
