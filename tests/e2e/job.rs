//! The workflows that the real runner runs.

/// What [`LIFE`] prints when all of it went well.
pub const DONE: &str = "e2e: the whole job is done";

/// Prints, checks its repository out by plain git, and takes an artifact of 64 MiB up and down again, all by
/// the address that the runner gives to its jobs. Gitea names itself in the artifact's links by its own
/// root URL: of those only the path is used, so that the bytes go the runner's way.
pub const LIFE: &str = r#"
on: push
jobs:
  life:
    runs-on: e2e
    steps:
      - run: |
          echo "e2e: hello from a step"
          env > "$HOME/job.env"
      - run: |
          key=$(printf 'x-access-token:%s' "$TOKEN" | base64 -w0)
          git -c "http.extraheader=Authorization: Basic $key" clone -q "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" tree
          test "$(git -C tree rev-parse HEAD)" = "$GITHUB_SHA"
          test -s tree/.gitea/workflows/job.yml
        env:
          TOKEN: ${{ github.token }}
      - run: |
          origin=$(sed -E 's,^(http://[^/]*).*,\1,' <<<"$GITHUB_SERVER_URL")
          base="${ACTIONS_RUNTIME_URL}_apis/pipelines/workflows/$GITHUB_RUN_ID/artifacts"
          call() { curl -fsS -H "Authorization: Bearer $ACTIONS_RUNTIME_TOKEN" "$@"; }
          link() { sed -E "s,.*\"$1\":\"http://[^/]*([^\"]*)\".*,$origin\1,"; }

          head -c 67108864 /dev/urandom > up
          md5=$(printf "$(md5sum < up | sed 's/ .*//; s/../\\x&/g')" | base64)
          to=$(call -H 'Content-Type: application/json' -d '{"Type":"actions_storage","Name":"big"}' "$base?api-version=6.0-preview" | link fileContainerResourceUrl)
          call -o answer -T up -H 'Content-Range: bytes 0-67108863/67108864' -H 'x-tfs-filelength: 67108864' \
            -H "x-actions-results-md5: $md5" "$to?itemPath=big%2Fup"
          call -o answer -X PATCH "$base?api-version=6.0-preview&artifactName=big"

          list=$(call "$base?api-version=6.0-preview" | link fileContainerResourceUrl)
          from=$(call "$list?itemPath=big" | link contentLocation)
          call -o down "$from"
          test "$(sha256sum < up)" = "$(sha256sum < down)"
          echo "e2e: the whole job is done"
"#;

/// What [`WAITING`] prints before it waits.
pub const WAITS: &str = "e2e: waiting";

/// Waits until the test lets it go on, two minutes at most.
pub const WAITING: &str = r#"
on: push
jobs:
  wait:
    runs-on: e2e
    steps:
      - run: |
          echo "e2e: waiting"
          for _ in $(seq 600); do test -e "$HOME/go" && break; sleep 0.2; done
          test -e "$HOME/go"
      - run: |
          echo "e2e: the whole job is done"
"#;
