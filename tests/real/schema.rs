//! Python's jsonschema takes the schema of catalog files, the documented catalogs, and none of their mistakes.

use std::path::Path;
use std::process::Command;

const SCRIPT: &str = r#"
import json, sys, tomllib
from jsonschema import Draft202012Validator

schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
text = open(sys.argv[2]).read()
for error in validator.iter_errors(tomllib.loads(text)):
    sys.exit(f"a documented catalog does not fit: {list(error.path)}: {error.message}")
for good, bad in [
    ('unit_amount = "2.50"', "unit_amount = 2.5"),
    ('unit_amount = "2.50"', ""),
    ("per = 1000000", "tiers = []"),
    ('model = "volume"', 'model = "volumes"'),
    ('aggregation = "sum"', 'aggregation = "count"'),
    ('id = "globex"', 'id = "Globex"'),
    ("[[plan]]", "[[plans]]"),
]:
    assert good in text, good
    if validator.is_valid(tomllib.loads(text.replace(good, bad, 1))):
        sys.exit(f"{bad} fits")
"#;

#[test]
fn a_real_validator_reads_the_schema_as_we_do() {
    if !crate::has_peer("python3") || !crate::has_python_module("jsonschema") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(root.join("schemas/catalog.schema.json"))
        .arg(root.join("docs/reference/pricing-models.toml"))
        .output()
        .expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
