# What is done often. `just` alone lists it.

_list:
    @just --list

# The whole life of runners in one process
demo:
    cargo run -- demo

# All tests that need nothing but Rust and a C compiler
test:
    cargo test

# Format and lints, as CI asks for them
lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings

# The crate's pages, with every warning an error
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The whole life with a real Gitea and a real runner; needs GITEA_BIN and GITEA_RUNNER_BIN
e2e:
    cargo test --features e2e --test e2e

# The token page in a headless Chromium; needs chromium and chromedriver
browser:
    cargo test --features browser --test browser

# The admin API with requests made from its own description; needs python3-venv and jq
schemathesis:
    .ci/run build secrets schemathesis

# One fuzz target, for a minute unless told otherwise; needs a nightly compiler and cargo-fuzz
fuzz target seconds="60":
    mkdir -p fuzz/corpus/{{target}}
    cargo +nightly fuzz run --sanitizer none {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- -dict=fuzz/dict/{{target}} -max_total_time={{seconds}}

# Instructions of a poll and of a registration, against what is expected; needs valgrind
instructions:
    cargo bench --bench instructions

# The broker beside HAProxy, nginx and Caddy; says what is missing
compare *args:
    cargo bench --bench compare -- {{args}}

# Licences, advisories and sources of all dependencies; needs cargo-deny
deny:
    cargo deny check

# Everything that must pass before a change goes in
ci:
    .ci/run
