//! Scenario files as tables: what is read, and what is refused where and how.

use clap::{Args, Command, FromArgMatches};

use super::flags::ScenarioFlags;
use super::*;

const LEAST: &str = "scenario = 1\nabout = \"x\"\n[load]\nevents = 1\n";

#[test]
fn every_built_in_scenario_is_read_and_says_what_it_is_for() {
    for built_in in BUILT_IN {
        let scenario =
            Scenario::parse(built_in.name, built_in.text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.about.is_empty() && built_in.text.starts_with("# "), "{}", built_in.name);
        // What workers get is what was read.
        let told: Scenario = serde_json::from_str(&serde_json::to_string(&scenario).unwrap()).unwrap();
        assert_eq!(format!("{told:?}"), format!("{scenario:?}"));
    }
}

#[test]
fn every_file_of_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut built_in: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
    built_in.sort_unstable();
    assert_eq!(names, built_in);
}

fn check_refused(text: &str, line: usize, said: &str) {
    let error = Scenario::parse("file.toml", text).expect_err(text);
    assert_eq!(error.line, Some(line), "{error} of {text}");
    let shown = error.to_string();
    assert!(shown.starts_with(&format!("file.toml:{line}: ")) && shown.contains(said), "{shown}");
}

#[test]
fn a_mistake_says_its_line_and_what_to_do() {
    let after = |more: &str| format!("{LEAST}{more}");
    for (text, line, said) in [
        ("scenario = 2\nabout = \"x\"\n[load]\nevents = 1\n".to_string(), 1, "write `scenario = 1`"),
        ("scenario = 1\nabout = \"x\"\n".to_string(), 1, "give either `events` or `seconds`"),
        (
            "about = \"x\"\nscenario = 1\n[load]\nrate = 1\n".to_string(),
            3,
            "give either `events` or `seconds`",
        ),
        (after("seconds = 2\n"), 5, "give either `events` or `seconds`"),
        (after("rats = 2\n"), 5, "unknown field `rats`"),
        (after("seed = \"x\"\n"), 5, "invalid type"),
        (after("seed = \n"), 5, "docs/loadgen.md"),
        (after("# a comment\naccounts = 0\n"), 6, "take one from 1 to 1000000"),
        (after("accounts = 5\nsubjects = 4\n"), 6, "raise `subjects`"),
        (after("skew = -1.0\n"), 5, "from 0.0 to 5.0"),
        (after("skew = nan\n"), 5, "from 0.0 to 5.0"),
        (after("[ids]\nshape = \"guid\"\n"), 6, "unknown variant"),
        (after("[ids]\nduplicates = 901\n"), 6, "take one from 0 to 900"),
        (after("[ids]\nshape = \"sequenced\"\nduplicates = 1\n"), 7, "set `duplicates = 0`"),
        (after("[ids]\nshape = \"sequenced\"\n[send]\ntarget = \"ndjson\"\n"), 6, "`target = \"quic\"`"),
        (after("[time]\nlate = 600\ndisorder = 401\n"), 6, "lower `late` or `disorder`"),
        (after("[time]\nlate_hours = 721\n"), 6, "take one from 1 to 720"),
        (
            after(
                "[[dimension]]\nname = \"a\"\nvalues = [\"x\"]\n[[dimension]]\nname = \"a\"\nvalues = [\"x\"]\n",
            ),
            9,
            "rename it",
        ),
        (after("[[dimension]]\nname = \"a\"\n"), 5, "give `values` or `distinct`"),
        (after("[[dimension]]\nname = \"a\"\nvalues = []\n"), 7, "give `values` or `distinct`"),
        (
            after("[[dimension]]\nname = \"a\"\nvalues = [\"x\"]\ndistinct = 3\n"),
            7,
            "give `values` or `distinct`",
        ),
        (
            after(
                "[[dimension]]\nname = \"a\"\nvalues = [\"x\"]\n[[dimension]]\nname = \"b\"\ndistinct = 0\n",
            ),
            10,
            "from 1 to",
        ),
        (after("[send]\nprocesses = 2\n"), 6, "raise `connections`"),
        (after("[send]\nbatch = 20_000\n"), 6, "take one from 1 to 16384"),
        (after("[send]\ntarget = \"http-single\"\nbatch = 2\n"), 7, "leave `batch` out"),
        (after("[send]\ntarget = \"http-batch\"\nin_flight = 2\n"), 7, "raise `connections`"),
        (after("[send]\nin_flight = 65\n"), 6, "take one from 1 to 64"),
        (after("[bursts]\nevery_seconds = 5\nfor_seconds = 1\nfactor = 2\n"), 8, "give `rate`"),
        (
            after("rate = 5\n[bursts]\nevery_seconds = 5\nfor_seconds = 5\nfactor = 2\n"),
            8,
            "raise `every_seconds`",
        ),
        (after("[reconnects]\nevery_seconds = 0\n"), 6, "take one from 1 to 3600"),
        (after("[slow]\nconnections = 1\nmilliseconds = 10_000\n"), 7, "take one from 1 to 9000"),
        (after("rate = 5\n[trace]\nfile = \"x.csv\"\n"), 5, "use `speed`"),
    ] {
        check_refused(&text, line, said);
    }
}

#[test]
fn what_is_left_out_has_a_default() {
    let scenario = Scenario::parse("x", LEAST).unwrap();
    assert_eq!((scenario.subjects(), scenario.batch(), scenario.in_flight()), (1_000, 4_096, 16));
    assert!(!scenario.is_open_loop());
    for (target, batch) in [("http-single", 1), ("http-binary", 1), ("http-batch", 1_000), ("ndjson", 50_000)]
    {
        let text = format!("{LEAST}[send]\ntarget = \"{target}\"\n");
        assert_eq!(Scenario::parse("x", &text).unwrap().batch(), batch);
    }
}

#[test]
fn a_name_that_is_unknown_lists_those_that_are() {
    let error = Scenario::find("lion-rate").unwrap_err().to_string();
    assert!(error.contains("line-rate") && error.contains("peer"), "{error}");
    let error = Scenario::find("not/there.toml").unwrap_err().to_string();
    assert!(error.contains("check the path"), "{error}");
}

fn with_flags(scenario: &str, flags: &[&str]) -> Result<Scenario, ScenarioError> {
    let command = ScenarioFlags::augment_args(Command::new("test").no_binary_name(true));
    let matches = command.try_get_matches_from(flags).unwrap();
    let flags = ScenarioFlags::from_arg_matches(&matches).unwrap();
    flags.apply(scenario, Scenario::find(scenario)?)
}

#[test]
fn flags_stand_above_the_scenario_and_are_checked_like_it() {
    let scenario = with_flags("steady", &["--events", "7", "--rate", "9", "--ids", "uuid"]).unwrap();
    assert_eq!((scenario.load.events, scenario.load.seconds), (Some(7), None));
    assert_eq!((scenario.load.rate, scenario.ids.shape), (9, IdShape::Uuid));
    // Another target does not keep the batch of the scenario's own.
    let scenario = with_flags("steady", &["--target", "http-single"]).unwrap();
    assert_eq!((scenario.batch(), scenario.send.target), (1, Target::HttpSingle));
    let scenario = with_flags("trace", &["--trace", "mine.csv", "--speed", "3"]).unwrap();
    let trace = scenario.trace.unwrap();
    assert_eq!((trace.file, trace.speed), (PathBuf::from("mine.csv"), 3));
    let error = with_flags("line-rate", &["--ids", "sequenced"]).unwrap_err();
    assert_eq!(error.status, ScenarioStatus::SequencedMustBeUnique);
    assert!(error.to_string().starts_with("line-rate with these flags, `duplicates`: "), "{error}");
}
