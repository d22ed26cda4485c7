//! `schemas/wire.md` is the contract for people who do not read Rust: its tables are those of the code.

use std::fs;
use std::path::PathBuf;

use crate::frame::{FrameStatus, Schema};
use crate::reply::CloseCode;
use crate::verdict::{RefusalCode, Verdict};

#[test]
fn every_code_stands_in_the_document_with_its_text() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/wire.md");
    let document = fs::read_to_string(path).unwrap();
    let mut rows = Vec::new();
    rows.extend(FrameStatus::ALL.map(|status| format!("| {} | {status:?} | {status} |", status.code())));
    rows.extend(RefusalCode::ALL.map(|refusal| format!("| {} | {refusal} |", refusal.code())));
    rows.extend(
        (0..=u8::MAX)
            .filter_map(Verdict::from_code)
            .map(|verdict| format!("| {} | {verdict} |", verdict.code())),
    );
    rows.extend((0..10).map(CloseCode::from_code).map(|close| format!("| {} | {close} |", close.code())));
    rows.extend(Schema::ALL.map(|schema| {
        let max = schema.body_bytes_max().to_string();
        let (thousands, rest) = max.split_at(max.len() - 3);
        let max = match thousands.len() {
            1 => format!("{thousands},{rest}"),
            _ => format!("{},{},{rest}", &thousands[..1], &thousands[1..]),
        };
        let name =
            format!("{schema:?}").replace("UsageBatch", "usage batch").replace("V1", "").to_lowercase();
        let line = document.lines().find(|line| line.starts_with(&format!("| {} | {name} |", schema.code())));
        assert!(line.is_some_and(|line| line.contains(&format!("| {max} |"))), "{name} {max}");
        format!("| {} | {name} |", schema.code())
    }));
    for row in rows {
        assert!(document.lines().any(|line| line.starts_with(&row)), "schemas/wire.md lacks: {row}");
    }
}
