//! How each type of value is written: the text that it is read from and shown as.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::ValueKind;

use super::{Busy, Deregister, LogFormat, LogLevel, Scope};
use crate::broker::token::Kind;

/// A type that settings are read as.
pub(crate) trait Setting: Sized {
    /// Whether a bare TOML integer means the same as its digits in quotes.
    const INTEGER: bool = false;

    /// Reads the text, or says what is wrong with it and what would be right.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that would be read as this value.
    fn show(&self) -> String;

    /// Reads a value of the layers, most of which are text.
    fn read(kind: ValueKind) -> Result<Self, String> {
        match kind {
            ValueKind::String(text) => Self::parse(&text),
            ValueKind::I64(number) if Self::INTEGER => Self::parse(&number.to_string()),
            _ => Err("is no text: put it in quotes".into()),
        }
    }
}

impl Setting for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for bool {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is unknown: give true or false"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn read(kind: ValueKind) -> Result<Self, String> {
        match kind {
            ValueKind::Boolean(value) => Ok(value),
            ValueKind::String(text) => Self::parse(&text),
            _ => Err("is neither true nor false: give one of them".into()),
        }
    }
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

impl Setting for Scope {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{text:?} is no scope: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
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
    Kind { "reusable" => Reusable, "single_use" => SingleUse }
    Deregister { "auto" => Auto, "gone" => Gone, "all" => All, "none" => None }
    Busy { "leave" => Leave, "cancel" => Cancel }
    LogFormat { "text" => Text, "json" => Json }
    LogLevel {
        "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[track_caller]
    pub(in super::super) fn reads<T: Setting>(text: &str, shown: &str) {
        assert_eq!(T::parse(text).map(|value| value.show()), Ok(shown.to_owned()));
        assert_eq!(T::parse(shown).map(|value| value.show()), Ok(shown.to_owned()));
    }

    #[track_caller]
    pub(in super::super) fn refuses<T: Setting>(texts: &[&str], message: &str) {
        for text in texts {
            let error = T::parse(text).map(|value| value.show()).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn ids() {
        reads::<u32>("1000", "1000");
        refuses::<u32>(&["", "-1", "root", "4294967295", "1.5"], "is no id");
    }

    #[test]
    fn addresses_paths_and_words() {
        reads::<SocketAddr>("0.0.0.0:8080", "0.0.0.0:8080");
        reads::<SocketAddr>("[::1]:80", "[::1]:80");
        refuses::<SocketAddr>(&["", ":80", "localhost:80", "1.2.3.4"], "IP:PORT");
        reads::<PathBuf>("/x", "/x");
        refuses::<PathBuf>(&["", "x", "/x\0y"], "no absolute path");
        for word in ["auto", "gone", "all", "none"] {
            reads::<Deregister>(word, word);
        }
        refuses::<Deregister>(&["", "All"], "give auto or gone or all or none");
        reads::<Busy>("cancel", "cancel");
        reads::<LogFormat>("json", "json");
        reads::<LogLevel>("trace", "trace");
        reads::<Kind>("single_use", "single_use");
        refuses::<Kind>(&["", "single-use"], "give reusable or single_use");
        reads::<bool>("true", "true");
        refuses::<bool>(&["", "yes", "1", "True"], "give true or false");
    }
}
