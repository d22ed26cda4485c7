//! What documents show of the terminal is what the binary prints.
//!
//! Owns: running every command of a `console` block that needs no server, in the folder of its page. `TALLYMARK_BLESS=1`
//! writes what is printed into the pages; look at the difference before committing it.

use std::path::Path;
use std::process::Command;

use crate::process::{binary, text};

const PAGES: [&str; 2] = ["docs/reference/pricing-models.md", "docs/reference/catalog.md"];

/// A page in which every console block shows what its commands print.
fn shown_as_printed(page: &Path) -> (String, String, usize) {
    let found = std::fs::read_to_string(page).unwrap();
    let (mut printed, mut commands, mut is_console) = (String::new(), 0, false);
    for line in found.lines() {
        match (line, is_console) {
            ("```console", _) => is_console = true,
            ("```", true) => is_console = false,
            _ => {}
        }
        let is_fence = line.starts_with("```");
        if !is_console || is_fence {
            printed.push_str(line);
            printed.push('\n');
            continue;
        }
        if let Some(command) = line.strip_prefix("$ tallymark ") {
            if !printed.ends_with("```console\n") {
                printed.push('\n');
            }
            printed.push_str(line);
            printed.push('\n');
            let folder = page.parent().expect("a page lies in a folder");
            let mut run = Command::new(binary());
            let output =
                run.args(command.split(' ')).current_dir(folder).output().expect("the binary starts");
            printed.push_str(
                &String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap(),
            );
            commands += 1;
            assert!(output.status.success() || command.starts_with("catalog check"), "{}", text(&output));
        }
    }
    (found, printed, commands)
}

#[test]
fn pages_show_what_the_binary_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut commands = 0;
    for page in PAGES {
        let path = root.join(page);
        let (found, printed, count) = shown_as_printed(&path);
        commands += count;
        if std::env::var_os("TALLYMARK_BLESS").is_some() {
            std::fs::write(&path, &printed).unwrap();
            continue;
        }
        for (found, printed) in found.lines().zip(printed.lines()) {
            assert_eq!(found, printed, "{page}; TALLYMARK_BLESS=1 writes what is printed");
        }
        assert_eq!(found.lines().count(), printed.lines().count(), "{page}");
    }
    assert!(commands > 15, "only {commands} commands were found");
}

#[test]
fn the_prices_of_the_page_are_those_of_its_catalog() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    let page = std::fs::read_to_string(root.join("pricing-models.md")).unwrap();
    let catalog = std::fs::read_to_string(root.join("pricing-models.toml")).unwrap();
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    for block in &blocks {
        assert!(catalog.contains(block), "{block}");
    }
    assert_eq!(blocks.len(), catalog.matches("[[price]]").count(), "every price is on the page");
}
