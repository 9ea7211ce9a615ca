//! The words behind `cargo bench --bench NAME --`.

use std::path::{Path, PathBuf};

/// What was asked for.
pub(crate) struct Options {
    /// `--out DIR`: where the raw numbers and the plots go.
    pub(crate) out: Option<PathBuf>,
    /// `--quick`: fewer and shorter runs, which show that the bench works and little else.
    pub(crate) quick: bool,
    /// The words that are the bench's own.
    pub(crate) rest: Vec<String>,
}

impl Options {
    /// Of this process.
    pub(crate) fn read() -> Self {
        let mut options = Self { out: None, quick: false, rest: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--out" => options.out = Some(words.next().expect("--out DIR").into()),
                _ => options.rest.push(word),
            }
        }
        if let Some(out) = &options.out {
            std::fs::create_dir_all(out).expect("the folder of --out can be made");
        }
        options
    }

    /// Writes a file into the folder of `--out`, where there is one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.with(name, |path| std::fs::write(path, text).expect("--out can be written"));
    }

    /// Has something make a file in the folder of `--out`, where there is one.
    pub(crate) fn with(&self, name: &str, make: impl FnOnce(&Path)) {
        if let Some(out) = &self.out {
            let path = out.join(name);
            make(&path);
            eprintln!("written: {}", path.display());
        }
    }
}
