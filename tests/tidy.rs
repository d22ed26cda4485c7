//! Style as a test: rules of the house that no compiler checks.
//!
//! Owns: what every source file keeps (a header, a size, no unfinished work, no paths of one machine), which crate may use
//! which, and that tests named in tables are there. Leaves to others: formatting (`cargo fmt`), code (`cargo clippy`, with each crate's bans).
//!
//! Invariants: a rule is a pure function from text to breaches, and each is tried on a sample that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where sources lie.
const SOURCE_FOLDERS: [&str; 5] = ["src", "clients", "loadgen", "tests", "benches"];
/// Lines at which a file is surely more than one idea.
const LINES_MAX: usize = 1_000;
/// Work that was left for later. Written in two halves, so that this file keeps its own rule.
const UNFINISHED: [&str; 4] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X")];
/// Paths that exist on one machine only.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// The crates of ours that each crate may use.
const EDGES: [(&str, &[&str]); 6] = [
    ("src/domain", &[]),
    ("src/billing", &["domain"]),
    ("src/wire", &["domain"]),
    ("src/engine", &["domain", "wire"]),
    ("src/machine", &["domain", "billing", "wire", "engine"]),
    ("clients/rust", &["domain", "wire"]),
];
/// The crates without I/O, and what would bring it in.
const CORE: [&str; 5] = ["src/domain", "src/billing", "src/wire", "src/engine", "src/machine"];
const SHELL_ONLY: [&str; 4] = ["tokio", "quinn", "rustls", "axum"];

#[test]
fn every_source_file_keeps_the_rules_of_the_house() {
    let mut files = Vec::new();
    for folder in SOURCE_FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    let sources = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut checked = 0;
    let mut breaches = Vec::new();
    for path in sources {
        checked += 1;
        let name = path.strip_prefix(root()).expect("files were found under the root");
        let found = breaches_of_source(&read(path));
        breaches.extend(found.into_iter().map(|breach| format!("{}: {breach}", name.display())));
    }
    assert!(checked > 50, "only {checked} source files were found");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn tests_that_a_table_names_are_there() {
    let mut files = Vec::new();
    for folder in SOURCE_FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    let sources = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let texts: Vec<String> = sources.map(|path| read(path)).collect();
    let defined: BTreeSet<&str> = texts.iter().flat_map(|text| functions_of(text)).collect();
    let named: BTreeSet<&str> = texts.iter().flat_map(|text| tests_named_by(text)).collect();
    assert!(named.len() > 40, "only {} tests were named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !defined.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let ours = names_of_members();
    let mut breaches = Vec::new();
    for (member, allowed) in EDGES {
        let manifest = read(&root().join(member).join("Cargo.toml"));
        let forbidden = ours.iter().map(String::as_str).filter(|name| !allowed.contains(name));
        let found = breaches_of_edges(&manifest, &["dependencies", "build-dependencies"], forbidden);
        breaches.extend(found.into_iter().map(|breach| format!("{member}: {breach}")));
    }
    for member in CORE {
        let manifest = read(&root().join(member).join("Cargo.toml"));
        let sections = ["dependencies", "build-dependencies", "dev-dependencies"];
        let found = breaches_of_edges(&manifest, &sections, SHELL_ONLY);
        breaches.extend(found.into_iter().map(|breach| format!("{member}: {breach}")));
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn a_source_that_breaks_a_rule_is_found() {
    let clean = "//! What it is for.\n\nfn main() {}\n";
    let unfinished: Vec<String> = UNFINISHED.map(|word| format!("{clean}// {word}\n")).to_vec();
    let paths: Vec<String> = MACHINE_PATHS.map(|path| format!("{clean}// see {path}notes\n")).to_vec();
    check_source(clean, 0);
    check_source(&"//! Long.\n".repeat(LINES_MAX), 0);
    check_source(&"//! Long.\n".repeat(LINES_MAX + 1), 1);
    check_source("use std::fs;\n", 1);
    check_source("// A comment is no header.\n", 1);
    check_source("", 1);
    for sample in unfinished.iter().chain(&paths) {
        check_source(sample, 1);
    }
}

#[test]
fn a_table_that_names_tests_is_found() {
    let table = "//! | 1 | [`one_two_three_four`]; `of_a_mod`: `five_six_seven_eight` |\n";
    assert_eq!(tests_named_by(table), ["one_two_three_four", "five_six_seven_eight"]);
    assert_eq!(tests_named_by("//! `one_two_three_four` is no row\n"), Vec::<&str>::new());
    assert_eq!(functions_of("    fn one_two(a: u8) {\n        fn_call();\n"), ["one_two"]);
}

#[test]
fn a_manifest_that_breaks_a_rule_is_found() {
    let sample = "[package]\nname = \"sample\"\n\n[dependencies]\ndomain = { workspace = true }\n\
                  tokio.workspace = true\n\n[dependencies.engine]\nworkspace = true\n\n\
                  [target.'cfg(unix)'.dependencies]\n\"quinn\" = \"1\"\nnet = { package = \"axum\", version = \"1\" }\n\n\
                  [dev-dependencies]\nbilling = { workspace = true }\n";
    check_edges(sample, &["domain"], 1);
    check_edges(sample, &["tokio", "engine", "quinn", "axum"], 4);
    check_edges(sample, &["billing", "sample", "workspace", "version"], 0);
    assert_eq!(breaches_of_edges(sample, &["dev-dependencies"], ["billing", "domain"]).len(), 1);
}

fn check_source(text: &str, breaches: usize) {
    let found = breaches_of_source(text);
    assert_eq!(found.len(), breaches, "{found:?} in {:?}", text.lines().next());
}

fn check_edges(manifest: &str, forbidden: &[&str], breaches: usize) {
    let found = breaches_of_edges(manifest, &["dependencies"], forbidden.iter().copied());
    assert_eq!(found.len(), breaches, "{found:?}");
}

/// Which rules a source file breaks.
fn breaches_of_source(text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push(
            "a file opens with //!: what it is for, what it owns, what it leaves to others".to_string(),
        );
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        breaches.push(format!("{lines} lines are more than one idea; {LINES_MAX} is the end"));
    }
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let unfinished = UNFINISHED.iter().filter(|word| line.contains(**word));
        breaches.extend(unfinished.map(|word| format!("line {number}: {word} is unfinished work")));
        let paths = MACHINE_PATHS.iter().filter(|path| line.contains(**path));
        breaches.extend(paths.map(|path| format!("line {number}: {path} exists on one machine only")));
    }
    breaches
}

/// Which forbidden crates a manifest names in its sections of a kind, for every target.
/// Names of tests in the tables of a header: sentences in backticks, so with three underscores or more.
fn tests_named_by(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("//! |"));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let is_sentence = |name: &&str| {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.chars().all(is_word) && name.matches('_').count() > 2
    };
    quoted.filter(is_sentence).collect()
}

/// Names of the functions of a source.
fn functions_of(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim_start);
    let names = lines.filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("fn "));
    names.filter_map(|rest| rest.split(['(', '<']).next()).collect()
}

fn breaches_of_edges<'a>(
    manifest: &str,
    sections: &[&str],
    forbidden: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let named = dependencies_of(manifest, sections);
    let found = forbidden.into_iter().filter(|name| named.contains(*name));
    found.map(|name| format!("{name} lies above or outside this crate")).collect()
}

/// Names of the crates in a manifest's sections, those behind another name included.
fn dependencies_of(manifest: &str, sections: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_inside = false;
    let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']).to_string();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let section_of = |path: &str| {
                let last = path.rsplit('.').next().unwrap_or(path);
                sections.contains(&last)
            };
            is_inside = section_of(header);
            // `[dependencies.engine]` is a dependency of its own.
            if let Some((_, name)) = header.rsplit_once('.').filter(|(path, _)| section_of(path)) {
                names.insert(unquoted(name));
            }
            continue;
        }
        if !is_inside || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        names.insert(unquoted(key.split('.').next().unwrap_or(key)));
        if let Some((_, renamed)) = value.split_once("package = \"") {
            names.extend(renamed.split('"').next().map(str::to_string));
        }
    }
    names
}

/// Package names of all members of the workspace.
fn names_of_members() -> BTreeSet<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, members) = manifest.split_once("\nmembers = [").expect("the workspace lists its members");
    let (members, _) = members.split_once(']').expect("a list ends");
    let folders = members.split(',').map(|member| member.trim().trim_matches('"')).filter(|m| !m.is_empty());
    let names: BTreeSet<String> = folders
        .map(|folder| {
            let manifest = read(&root().join(folder).join("Cargo.toml"));
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = \""));
            name.expect("a member has a name").trim_end_matches('"').to_string()
        })
        .collect();
    assert!(names.contains("domain") && names.contains("server"), "members were read: {names:?}");
    names
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder of the sources can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
    files.sort();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
