//! How each type of value is written: the text that it is read from and shown as.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;

use super::{Address, Busy, Deregister, LogFormat, LogLevel, Scope};

/// A type that settings are read as.
pub(super) trait Setting: Sized {
    /// Whether a bare TOML integer means the same as its digits in quotes.
    const INTEGER: bool = false;

    /// Reads the text, or says what is wrong with it and what would be right.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that would be read as this value.
    fn show(&self) -> String;
}

impl Setting for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("{text:?} is no address to listen on: give IP:PORT, for example 0.0.0.0:8080")
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if Path::new(text).is_absolute() && !text.contains('\0') {
            Ok(text.into())
        } else {
            Err(format!("{text:?} is no absolute path: begin it with /"))
        }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|_| {
            format!("{text:?} is no duration: give a number with its unit, for example 5s or 10m")
        })
    }

    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

/// A user or group id.
impl Setting for u32 {
    const INTEGER: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        // The highest number means "leave as it is" to the system.
        text.parse().ok().filter(|id| *id != Self::MAX).ok_or_else(|| {
            format!("{text:?} is no id: give a number from 0 to 4294967294, for example 1000")
        })
    }

    fn show(&self) -> String {
        self.to_string()
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
                "{text:?} keeps the owner from reading the file: begin it with 4 or more, for example 0600"
            ));
        }
        Ok(Self(mode))
    }

    fn show(&self) -> String {
        format!("{:04o}", self.0)
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

impl Setting for Scope {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{text:?} is no scope: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
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
                "{text:?} holds braces other than {{name}}, {{id}} and {{uuid}}: leave them out, {EXAMPLE}"
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

/// Types that are one of a few words.
macro_rules! words {
    ($($kind:ident { $($word:literal => $variant:ident),+ })+) => {$(
        impl Setting for $kind {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(
                        "{text:?} is unknown: give {}", [$($word),+].join(" or ")
                    )),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $word.into()),+ }
            }
        }
    )+};
}

words! {
    Deregister { "auto" => Auto, "gone" => Gone, "all" => All, "none" => None }
    Busy { "leave" => Leave, "cancel" => Cancel }
    LogFormat { "text" => Text, "json" => Json }
    LogLevel {
        "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace
    }
}
