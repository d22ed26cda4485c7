//! `schemas/catalog.schema.json` against the types that read catalogs, in both directions.
//!
//! Owns: that the schema has every field, word and rule of a model that the types have, and none besides; that its examples
//! can be read; that documented catalogs fit it and typical mistakes do not. Leaves to others: the types.
//!
//! The types say themselves which fields and words they know: in what they answer to one that they do not.

mod validator;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::validator::{breaches, referred};
use super::price::{Price, PricingModel};
use super::resource::{Resource, ResourceKind};
use super::status::Rule;

const SCHEMA: &str = include_str!("../../../../schemas/catalog.schema.json");
const UNKNOWN: &str = "no-such-name";
const RAMPS: &str = "ramps";

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// A schema without the reference that it may be; its own words go before those of what it refers to.
fn resolved(root: &Value, node: &Value) -> Map<String, Value> {
    let own = node.as_object().expect("a schema").clone();
    let Some(reference) = own.get("$ref") else { return own };
    let mut whole = resolved(root, referred(root, reference));
    whole.extend(own);
    whole
}

/// Fields by name; of alternatives the fields and words of all.
fn fields_of(root: &Value, node: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut fields: BTreeMap<String, Value> =
        node.get("properties").and_then(Value::as_object).cloned().unwrap_or_default().into_iter().collect();
    let is_choice = !node.contains_key("properties");
    for one in node.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter(|_| is_choice) {
        let one = resolved(root, one);
        if let Some(word) = one.get("const").and_then(Value::as_str) {
            fields.insert(word.to_string(), json!({}));
        }
        fields.extend(fields_of(root, &one));
    }
    fields
}

/// Fields of a resource, but for its ramps, which are of files only.
fn properties_of(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
    node["properties"].as_object().expect("a resource has fields").iter().filter(|(name, _)| *name != RAMPS)
}

fn example(root: &Value, node: &Value) -> Value {
    let node = resolved(root, node);
    node.get("examples")
        .and_then(|list| list.get(0))
        .cloned()
        .unwrap_or_else(|| panic!("{node:?} has no example"))
}

fn read(kind: ResourceKind, body: &Value) -> Result<Resource, String> {
    Resource::read(kind, body.clone()).map_err(|error| error.to_string())
}

/// The names that a reader knows where it met one that it does not.
fn known_names(message: &str) -> BTreeSet<String> {
    let is_about_it = message.contains(&format!("unknown field `{UNKNOWN}`"))
        || message.contains(&format!("unknown variant `{UNKNOWN}`"));
    assert!(is_about_it, "{message}");
    message.split('`').skip(3).step_by(2).map(str::to_string).collect()
}

fn names<T>(fields: &BTreeMap<String, T>) -> BTreeSet<String> {
    fields.keys().cloned().collect()
}

/// A body with the required fields, which are found out one by one.
fn smallest(root: &Value, kind: ResourceKind) -> Value {
    let node = &root["$defs"][kind.singular()];
    let (mut body, mut required) = (json!({}), BTreeSet::new());
    while let Err(message) = read(kind, &body) {
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let missing = missing.unwrap_or_else(|| panic!("{}: {message}", kind.singular()));
        body[missing] = example(root, &node["properties"][missing]);
        required.insert(missing.to_string());
    }
    let said =
        node["required"].as_array().expect("a list").iter().map(|name| name.as_str().unwrap().to_string());
    assert_eq!(said.collect::<BTreeSet<_>>(), required, "required of {}", kind.singular());
    body
}

/// Compares a part of a resource with what reads it, and the parts of that part; `place` puts it into a whole body.
fn check_part(root: &Value, kind: ResourceKind, path: &str, node: &Value, place: &dyn Fn(Value) -> Value) {
    let node = resolved(root, node);
    let fields = fields_of(root, &node);
    if fields.is_empty() {
        return;
    }
    let message = read(kind, &place(json!({ UNKNOWN: 1 }))).unwrap_err();
    let mut known = known_names(&message);
    if path == kind.singular() && fields.contains_key(RAMPS) {
        // Written out before a resource is read.
        known.insert(RAMPS.to_string());
    }
    assert_eq!(names(&fields), known, "fields of {path}");
    for (name, field) in fields.iter().filter(|(name, _)| *name != RAMPS) {
        let (inner, path) = (resolved(root, field), format!("{path}.{name}"));
        let put = |value: Value| place(json!({ name.as_str(): value }));
        if let Some(words) = inner.get("enum").and_then(Value::as_array).filter(|list| list[0].is_string()) {
            let words = words.iter().map(|word| word.as_str().expect("words").to_string());
            let message = read(kind, &put(json!(UNKNOWN))).unwrap_err();
            assert_eq!(words.collect::<BTreeSet<_>>(), known_names(&message), "words of {path}");
        } else if inner.get("type") == Some(&json!("string")) {
            let said = read(kind, &put(json!(UNKNOWN))).err().unwrap_or_default();
            assert!(!said.contains("unknown variant"), "{path} has words of its own: {said}");
        }
        check_part(root, kind, &path, field, &put);
        if let Some(items) = inner.get("items") {
            check_part(root, kind, &format!("{path}[]"), items, &|value| put(json!([value])));
        }
    }
}

#[test]
fn the_schema_has_every_field_and_word_that_catalogs_have_and_no_other() {
    let root = schema();
    let mut tables: BTreeSet<String> =
        ResourceKind::ALL.iter().map(|kind| kind.singular().to_string()).collect();
    tables.insert("catalog".to_string());
    assert_eq!(tables, root["properties"].as_object().unwrap().keys().cloned().collect());
    for kind in ResourceKind::ALL {
        let node = &root["$defs"][kind.singular()];
        let body = smallest(&root, kind);
        check_part(&root, kind, kind.singular(), node, &|part| {
            let mut whole = body.clone();
            whole.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            whole
        });
        for (name, field) in properties_of(node) {
            let mut body = body.clone();
            body[name] = example(&root, field);
            let read = read(kind, &body);
            assert!(read.is_ok(), "the example of {}.{name}: {read:?}", kind.singular());
            assert_eq!(breaches(&root, field, &body[name], name), Vec::<String>::new());
        }
    }
}

#[test]
fn every_model_needs_and_knows_in_the_schema_what_it_does_in_the_code() {
    let root = schema();
    let node = &root["$defs"]["price"];
    let conditions = node["allOf"].as_array().unwrap();
    assert_eq!(conditions.len(), PricingModel::ALL.len());
    for model in PricingModel::ALL {
        let of_model = |one: &&Value| one["if"]["properties"]["model"]["const"] == model.as_str();
        let then = &conditions.iter().find(of_model).expect("every model has its part")["then"];
        let needed: Vec<&str> =
            then["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let mut body = smallest(&root, ResourceKind::Prices);
        body["model"] = json!(model.as_str());
        for name in &needed {
            let amount = &then["properties"]["tiers"]["items"]["required"][0];
            body[*name] = match (*name, amount.as_str()) {
                ("tiers", Some(amount)) => json!([{ amount: "1" }]),
                _ => example(&root, &node["properties"][*name]),
            };
        }
        let check = |body: &Value| Price::deserialize(body.clone()).unwrap().check();
        assert_eq!(check(&body), Ok(()), "{body}");
        assert_eq!(breaches(&root, node, &body, ""), Vec::<String>::new(), "{body}");
        for name in &needed {
            let mut without = body.clone();
            without.as_object_mut().unwrap().remove(*name);
            let Err(Rule::PriceMustFitModel(what)) = check(&without) else {
                panic!("{model:?} without {name}")
            };
            assert!(what.ends_with(&format!("`{name}` is missing")), "{what}");
            assert_ne!(breaches(&root, node, &without, ""), Vec::<String>::new());
        }
        for (name, field) in properties_of(node) {
            if body.get(name).is_some() {
                continue;
            }
            let mut with = body.clone();
            with[name] = example(&root, field);
            let is_refused =
                matches!(check(&with), Err(Rule::PriceMustFitModel(what)) if what.contains("no meaning"));
            let is_forbidden = then["properties"].get(name) == Some(&json!(false));
            assert_eq!(is_refused, is_forbidden, "{name} in {model:?}");
        }
    }
}

/// A catalog as the schema sees it.
fn as_json(toml: &str) -> Value {
    let table: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{error}\n{toml}"));
    serde_json::to_value(table).expect("a catalog is plain data")
}

/// The catalogs in a document: what starts with its version, up to the end of the block.
fn catalogs_in(text: &str) -> Vec<String> {
    let ends = ["```", "TOML", "\"#"];
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "catalog = 1" {
            let block =
                lines.by_ref().take_while(|line| !ends.iter().any(|end| line.trim().starts_with(end)));
            found.push(["catalog = 1"].into_iter().chain(block).collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

#[test]
fn documented_and_tested_catalogs_fit_the_schema() {
    let root = schema();
    for (name, text, count) in [
        ("README.md", include_str!("../../../../README.md"), 1),
        ("first-bill.md", include_str!("../../../../docs/guides/first-bill.md"), 1),
        ("pricing-models.toml", include_str!("../../../../docs/reference/pricing-models.toml"), 1),
        ("agreements.toml", include_str!("../../../../docs/reference/agreements.toml"), 1),
        ("tests/e2e/process.rs", include_str!("../../../../tests/e2e/process.rs"), 1),
        ("catalog/state/tests.rs", include_str!("../state/tests.rs"), 1),
    ] {
        let catalogs = catalogs_in(text);
        assert_eq!(catalogs.len(), count, "{name}");
        for catalog in catalogs {
            let value = as_json(&catalog);
            assert_eq!(breaches(&root, &root, &value, ""), Vec::<String>::new(), "{name}");
        }
    }
}

/// A step may give whatever may change from version to version, and nothing else.
#[test]
fn a_step_of_a_ramp_has_the_fields_that_may_change() {
    let root = schema();
    for kind in ResourceKind::ALL {
        let Some(ramps) = root["$defs"][kind.singular()]["properties"].get(RAMPS) else { continue };
        let body = smallest(&root, kind);
        let first = read(kind, &body).unwrap();
        for (name, field) in properties_of(&root["$defs"][kind.singular()]) {
            let step = &ramps["items"]["properties"];
            let pointer = format!("#/$defs/{}/properties/{name}", kind.singular());
            if let Some(known) = step.get(name) {
                assert_eq!(known, &json!({ "$ref": pointer }));
                continue;
            }
            // What is left out does not change: it is required, or the catalog says that it is fixed.
            let is_fixed =
                root["$defs"][kind.singular()]["required"].as_array().unwrap().contains(&json!(name))
                    || field["description"].as_str().is_some_and(|text| text.contains("ixed"));
            assert!(is_fixed, "{name} of {first:?} may change, and a step cannot say it");
        }
        for example in ramps["examples"].as_array().unwrap() {
            assert_eq!(breaches(&root, ramps, example, ""), Vec::<String>::new());
        }
    }
}

#[test]
fn typical_mistakes_do_not_fit_the_schema() {
    let root = schema();
    let text = include_str!("../../../../docs/reference/pricing-models.toml");
    for (from, to, what) in [
        ("catalog = 1", "catalog = 2", "const"),
        ("[[plan]]", "[[plans]]", "must not be there"),
        ("unit_amount = \"2.50\"", "unit_amount = 2.5", "type"),
        ("unit_amount = \"2.50\"", "unit_amount = \"2,50\"", "pattern"),
        ("unit_amount = \"2.50\"", "", "required"),
        ("per = 1000000", "per = 12", "enum"),
        ("per = 1000000", "tiers = []", "must not be there"),
        ("model = \"volume\"", "model = \"volumes\"", "enum"),
        ("rate_percent = \"3\"", "unit_amount = \"3\"", "required"),
        ("payment = \"in_advance\"", "meter = \"tokens\"", "must not be there"),
        ("aggregation = \"sum\"", "aggregation = \"count\"", "must not be there"),
        ("from = \"2026-01-01T00:00:00Z\"", "from = \"2026-01-01\"", "pattern"),
        ("currency = \"USD\"", "currency = \"usd\"", "pattern"),
        ("id = \"globex\"", "id = \"Globex\"", "pattern"),
        ("convert = { divide = \"1000000000\" }", "convert = { divides = \"1\" }", "oneOf"),
        ("window = \"month\"", "window = \"fortnight\"", "enum"),
        ("{ unit_amount = \"0.20\" },", "{ when = {} },", "oneOf"),
        ("group_by = [\"model\", \"region\"]", "group_by = [\"model\", \"model\"]", "uniqueItems"),
    ] {
        assert!(text.contains(from), "{from}");
        let found = breaches(&root, &root, &as_json(&text.replacen(from, to, 1)), "");
        assert!(found.iter().any(|breach| breach.contains(what)), "{from} -> {to}: {found:?}");
    }
}

#[test]
fn the_documented_table_of_fields_and_models_is_that_of_the_schema() {
    let root = schema();
    let page = include_str!("../../../../docs/reference/catalog.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_string()).collect()
    };
    let mut lines = page.lines().skip_while(|line| !line.starts_with("| field | per_unit |"));
    let models = cells(lines.next().expect("the table is there"));
    assert_eq!(models[1..], PricingModel::ALL.map(|model| model.as_str().to_string()));
    let conditions = root["$defs"]["price"]["allOf"].as_array().unwrap();
    let mut documented = BTreeSet::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let row = cells(line);
        for (then, mark) in conditions.iter().map(|one| &one["then"]).zip(&row[1..]) {
            let is_needed = then["required"].as_array().unwrap().contains(&json!(row[0]));
            let is_forbidden = then["properties"].get(&row[0]) == Some(&json!(false));
            let expected = if is_needed {
                "●"
            } else if is_forbidden {
                ""
            } else {
                "○"
            };
            assert_eq!(mark, expected, "{line}");
        }
        documented.insert(row[0].clone());
    }
    let forbidden_somewhere = conditions.iter().flat_map(|one| {
        let properties = one["then"]["properties"].as_object().unwrap();
        properties.iter().filter(|(_, rule)| **rule == json!(false)).map(|(name, _)| name.clone())
    });
    assert_eq!(documented, forbidden_somewhere.collect());
}
