//! Runs of remembered ids: whatever is wrong with them, no id is forgotten, and the logs are enough.

use std::path::{Path, PathBuf};

use domain::Timestamp;

use crate::process::{CATALOG, Server, call, mark_shown, tallymark, text};
use crate::snapshots::{counters, send, started_from};

/// The least memory that there may be: 1,024 ids before there is a run.
const SETTINGS: [&str; 4] = ["--dedup-memory", "524288", "--pending-per-slot-max", "1000"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

fn runs(data: &Path) -> Vec<PathBuf> {
    files(&data.join("runs"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        match file.file_type().unwrap().is_dir() {
            true => copy(&file.path(), &to.join(file.file_name())),
            false => _ = std::fs::copy(file.path(), to.join(file.file_name())).unwrap(),
        }
    }
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn runs_of(server: &Server, token: &str) -> u64 {
    let page = call("GET", &server.url("/metrics"), token, "").await.1;
    let line = page.lines().find(|line| line.starts_with("tallymark_dedup_runs ")).unwrap();
    line.split(' ').next_back().unwrap().parse().unwrap()
}

/// A directory with 3,500 events, runs, and a snapshot that names them; gives its token.
async fn fill(data: &Path, now: Timestamp) -> String {
    let catalog = data.join("catalog.toml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let arguments = [&SETTINGS[..], &["--catalog", catalog.to_str().unwrap()]].concat();
    let server = Server::start(data, &arguments);
    let token = server.token.clone().unwrap();
    mark_shown(data);
    send(&server, data, &token, now, 0, 3_000).await;
    while runs_of(&server, &token).await == 0 {
        // The shard looks for what is done behind every question.
    }
    send(&server, data, &token, now, 3_000, 500).await;
    assert_eq!(server.terminate(), Some(0));
    token
}

/// What a start finds, whether it starts from the snapshot, and whether damage is only found when an id comes again.
const CASES: [(&str, bool, bool); 8] = [
    ("whole", true, false),
    ("missing", false, false),
    ("torn", false, false),
    ("damaged header", false, false),
    ("damaged filter", false, false),
    ("of another log", false, false),
    ("no folder", false, false),
    ("damaged entries", true, true),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_with_a_run_no_id_is_forgotten() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let now = Timestamp::from_nanoseconds(now);
    let (whole, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let token = fill(whole.path(), now).await;
    fill(other.path(), now).await;
    for (case, is_from_snapshot, is_found_late) in CASES {
        println!("{case}");
        let data = tempfile::tempdir().unwrap();
        copy(whole.path(), data.path());
        let run = runs(data.path())[0].clone();
        let bytes = std::fs::metadata(&run).unwrap().len();
        match case {
            "missing" => std::fs::remove_file(&run).unwrap(),
            "torn" => std::fs::File::options().write(true).open(&run).unwrap().set_len(bytes - 1).unwrap(),
            "damaged header" => flip(&run, 50),
            "damaged filter" => flip(&run, bytes as usize - 100),
            "of another log" => _ = std::fs::copy(&runs(other.path())[0], &run).unwrap(),
            "no folder" => std::fs::remove_dir_all(data.path().join("runs")).unwrap(),
            "damaged entries" => (0..60).for_each(|entry| flip(&run, 4_096 + 500 * entry)),
            _ => {}
        }
        let mut server = Server::start(data.path(), &SETTINGS);
        assert_eq!(started_from(&server, &token).await > 0, is_from_snapshot, "{case}");
        if is_found_late {
            send_to_the_end(&server, data.path(), &token, now).await;
            assert_eq!(server.wait(), Some(1), "a damaged run ends the process");
            assert!(!run.exists(), "it is taken away");
            server = Server::start(data.path(), &SETTINGS);
            assert_eq!(started_from(&server, &token).await, 0);
        }
        let before = counters(&server, &token).await["shop"]["duplicate"].as_u64().unwrap();
        send(&server, data.path(), &token, now, 0, 3_500).await;
        let after = counters(&server, &token).await["shop"].clone();
        assert_eq!(after["duplicate"].as_u64(), Some(before + 3_500), "{case}: {after}");
        assert_eq!(server.terminate(), Some(0), "{case}");
        let replayed = tallymark(&["replay", "--data", data.path().to_str().unwrap()]);
        assert!(replayed.status.success(), "{case}: {}", text(&replayed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_a_run_or_a_snapshot_that_is_damaged_and_passes_over_what_a_crash_leaves() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let whole = tempfile::tempdir().unwrap();
    fill(whole.path(), Timestamp::from_nanoseconds(now)).await;
    let name_of = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    let (run, snapshot) = (&runs(whole.path())[0], &files(&whole.path().join("snapshots"))[0]);
    let (run, snapshot) = (name_of(run), name_of(snapshot));
    for (case, expected) in [
        ("whole", "snapshots 1 say what the logs say, 0 were never finished".to_string()),
        ("damaged run", format!("run {run} of remembered ids is damaged")),
        ("damaged snapshot", format!("snapshot {snapshot}: its bytes at ")),
        ("unfinished snapshot", "snapshots 0 say what the logs say, 1 were never finished".to_string()),
        ("neither", "snapshots 0 say what the logs say, 0 were never finished".to_string()),
    ] {
        let data = tempfile::tempdir().unwrap();
        copy(whole.path(), data.path());
        let saved = data.path().join("snapshots").join(&snapshot);
        let bytes = std::fs::metadata(&saved).unwrap().len();
        match case {
            "damaged run" => flip(&data.path().join("runs").join(&run), 9_000),
            "damaged snapshot" => flip(&saved, bytes as usize / 2),
            "unfinished snapshot" => {
                std::fs::File::options().write(true).open(&saved).unwrap().set_len(bytes / 2).unwrap();
            }
            "neither" => {
                for folder in ["snapshots", "runs"] {
                    std::fs::remove_dir_all(data.path().join(folder)).unwrap();
                }
            }
            _ => {}
        }
        let verified = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
        let said = text(&verified);
        assert!(said.contains(&expected), "{case}: {said}");
        assert_eq!(verified.status.success(), !case.contains("damaged"), "{case}: {said}");
        assert_eq!(
            said.contains("take it away, a start does without it"),
            case.contains("damaged"),
            "{said}"
        );
    }
}

/// Sends known ids to a server that may end meanwhile.
async fn send_to_the_end(server: &Server, data: &Path, token: &str, now: Timestamp) {
    let client = crate::process::client(server, data, token, "shop").await;
    for number in 0..200u64 {
        let event = crate::snapshots::event(now, number);
        if client.record("request", &event).await.is_err() {
            return;
        }
    }
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), client.close()).await;
}
