//! Who imports whom inside a crate, read from the tokens of every file.
//!
//! Tokens rather than syntax, so that paths inside macros are seen too. Inline
//! test modules are free: only shipped code has layers.

use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::edges;
use crate::report::Report;
use crate::source::{SourceFile, files_below};
use crate::tables::{AGENT_CORE, COORDINATOR, Crate, Module, SQL, UNSAFE};

/// Checks modules, crate edges, and the homes of SQL and `unsafe`.
pub(crate) fn check(root: &Path) -> Report {
    let mut report = edges::check(root);
    for table in [&AGENT_CORE, &COORDINATOR] {
        match files_below(root, table.folder) {
            Ok(files) => files.iter().for_each(|file| report.merge(check_file(table, file))),
            Err(error) => report.errors.push(error),
        }
    }
    match files_below(root, "") {
        Ok(files) => files.iter().for_each(|file| report.merge(homes(file))),
        Err(error) => report.errors.push(error),
    }
    report
}

/// A path that code names, with `self` and `super` resolved.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    /// `crate` first for a path inside the crate.
    segments: Vec<String>,
    line: usize,
}

fn check_file(table: &Crate, file: &SourceFile) -> Report {
    let mut report = Report { examined: 1, ..Report::default() };
    let inside = file.path.strip_prefix(table.folder).unwrap_or(&file.path);
    let here = module_path(inside);
    let Some(top) = here.first() else {
        return report;
    };
    if here == ["bin"] {
        return report;
    }
    let Some(module) = table.modules.iter().find(|module| module.name == top) else {
        report.errors.push(format!(
            "{}: module {top} is not in the import table (ARCHITECTURE.md, cross/xtask/src/tables.rs)",
            file.path
        ));
        return report;
    };
    let mut references = Vec::new();
    read_paths(file.tokens.clone(), &here, &mut references);
    for reference in references {
        if file.in_tests(reference.line) {
            continue;
        }
        if let Some(wrong) = judge(table, module, &reference) {
            let path = reference.segments.join("::");
            report
                .errors
                .push(format!("{}:{}: {top} imports {path}: {wrong}", file.path, reference.line));
        }
    }
    report
}

/// `/tunnel/index.rs` → `[tunnel, index]`.
fn module_path(inside: &str) -> Vec<String> {
    let mut path: Vec<String> = inside
        .trim_start_matches('/')
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if path.last().is_some_and(|name| name == "mod") || path == ["lib"] || path == ["main"] {
        path.pop();
    }
    path
}

fn judge(table: &Crate, module: &Module, reference: &Reference) -> Option<String> {
    let (first, rest) = reference.segments.split_first()?;
    if first == "crate" {
        let target = rest.first().map_or("*", String::as_str);
        let known = table.modules.iter().any(|module| module.name == target);
        if !known {
            return Some("name the module that owns it, not the crate's root".to_owned());
        }
        let foundation = table.foundation.contains(&target);
        let allowed = target == module.name || foundation || module.modules.contains(&target);
        return (!allowed).then(|| format!("{} may not import {target}", module.name));
    }
    if module.without.contains(&first.as_str()) {
        return Some(format!("{} knows nothing of {first}", module.name));
    }
    if !first.starts_with("weft_") {
        return None;
    }
    let path = reference.segments.join("::");
    let allowed = module.paths.iter().any(|prefix| {
        path == *prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"))
    });
    (!allowed).then(|| format!("allowed from other crates: {:?}", module.paths))
}

fn read_paths(tokens: TokenStream, here: &[String], found: &mut Vec<Reference>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => {
                let inline = inline_module(&tokens, at);
                let deeper: Vec<String> = here.iter().cloned().chain(inline).collect();
                read_paths(group.stream(), &deeper, found);
                at += 1;
            }
            TokenTree::Ident(name) if starts_path(&tokens, at) => {
                let line = name.span().start().line;
                let mut leaves = Vec::new();
                at = read_tree(&tokens, at, &[], &mut leaves);
                found.extend(leaves.into_iter().filter_map(|leaf| {
                    let segments = resolve(&leaf, here)?;
                    Some(Reference { segments, line })
                }));
            }
            _ => at += 1,
        }
    }
}

/// The name of the inline module whose body is the group at `at`.
fn inline_module(tokens: &[TokenTree], at: usize) -> Option<String> {
    let [.., TokenTree::Ident(keyword), TokenTree::Ident(name)] = tokens.get(..at)? else {
        return None;
    };
    (keyword == "mod").then(|| name.to_string())
}

/// A path starts at an identifier with `::` behind it, or at the one name of
/// `use name;`.
fn starts_path(tokens: &[TokenTree], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|index| tokens.get(index));
    let used = matches!(before, Some(TokenTree::Ident(word)) if word == "use");
    used || is_punct(tokens.get(at + 1), ':') && is_punct(tokens.get(at + 2), ':')
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Reads one path or use tree from `at`; returns the index behind it.
fn read_tree(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => path.push("*".to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for tree in inner.split(|token| is_punct(Some(token), ',')) {
                    if !tree.is_empty() {
                        read_tree(tree, 0, &path, leaves);
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if !(is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')) {
            break;
        }
        at += 2;
    }
    leaves.push(path);
    at
}

/// Resolves `self` and `super`; `None` for paths that leave nothing to check.
fn resolve(path: &[String], here: &[String]) -> Option<Vec<String>> {
    let inside = |base: &[String], rest: &[String]| {
        let mut whole = vec!["crate".to_owned()];
        whole.extend(base.iter().chain(rest).filter(|name| *name != "self").cloned());
        Some(whole)
    };
    match path.first()?.as_str() {
        "crate" => inside(&[], &path[1..]),
        "self" => inside(here, &path[1..]),
        "super" => {
            let up = path.iter().take_while(|name| *name == "super").count();
            inside(&here[..here.len().saturating_sub(up)], &path[up..])
        }
        _ => Some(path.to_vec()),
    }
}

/// SQL stays in the store, `unsafe` in its few modules.
fn homes(file: &SourceFile) -> Report {
    let mut report = Report { examined: 1, ..Report::default() };
    let allowed = UNSAFE.iter().any(|home| is_home(&file.path, home));
    let sql = file.path.starts_with("coordinator/src/") && !is_home(&file.path, SQL);
    walk(file.tokens.clone(), &mut |token| {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(word) if word == "unsafe" && !allowed => report
                .errors
                .push(format!("{}:{line}: unsafe code; its homes are {UNSAFE:?}", file.path)),
            TokenTree::Literal(text)
                if sql && !file.in_tests(line) && is_sql(&text.to_string()) =>
            {
                report.errors.push(format!("{}:{line}: SQL outside {SQL}", file.path));
            }
            _ => {}
        }
    });
    report
}

fn is_home(path: &str, home: &str) -> bool {
    path.strip_prefix(home).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn is_sql(literal: &str) -> bool {
    let text = literal.trim_start_matches(['r', '#', '"', '\\', 'n', ' ', '\n']);
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    matches!(
        words.as_slice(),
        ["SELECT", ..]
            | ["INSERT", "INTO" | "OR", ..]
            | ["DELETE", "FROM", ..]
            | ["CREATE", "TABLE" | "INDEX" | "UNIQUE", ..]
            | ["PRAGMA", ..]
            | ["UPDATE", _, "SET"]
    )
}

fn walk(tokens: TokenStream, see: &mut dyn FnMut(&TokenTree)) {
    for token in tokens {
        see(&token);
        if let TokenTree::Group(group) = token {
            walk(group.stream(), see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::workspace_root;

    #[test]
    fn the_tree_keeps_its_layers() {
        let report = check(&workspace_root());
        assert!(report.examined > 20, "examined {}", report.examined);
        assert_eq!(report.errors, Vec::<String>::new());
    }

    fn errors(path: &str, text: &str) -> Vec<String> {
        let table = if path.starts_with("agent-core") { &AGENT_CORE } else { &COORDINATOR };
        let file = SourceFile::parse(path, text).unwrap();
        let mut report = check_file(table, &file);
        report.merge(homes(&file));
        report.errors
    }

    #[test]
    fn siblings_do_not_import_one_another() {
        for text in [
            "use crate::datapath::Route;",
            "use crate::{time::Instant, path::{Candidate}};",
            "fn f() -> u8 { crate::control::VERSION }",
            "mod deep { use super::super::peers::Slot; }",
            "fn f() { assert!(crate::agent::X); }",
            "use weft_wire::map::Page;",
            "use weft_noise::sealed::Session;",
            "use weft_noise as n;",
            "use crate::*;",
        ] {
            let found = errors("agent-core/src/tunnel/mod.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn what_the_table_allows_passes() {
        for text in [
            "use crate::time::Instant; use crate::{ip, timer::{Timer, TimerTable}};",
            "use weft_noise::wg::{Sealer, Opener}; use weft_wire::id::PublicKey;",
            "use self::index::Index; use super::tunnel::index; mod index;",
            "fn f() { ::core::mem::drop(1); Timer::Rekey::after(); }",
            "#[cfg(test)] mod tests { use crate::agent::Agent; }",
        ] {
            let found = errors("agent-core/src/tunnel/mod.rs", text);
            assert_eq!(found, Vec::<String>::new(), "{text}");
        }
        let all = "use crate::{tunnel::T, path::P, control::C}; use weft_noise::probe::Key;";
        assert_eq!(errors("agent-core/src/agent.rs", all), Vec::<String>::new());
    }

    #[test]
    fn the_coordinators_arrows_point_one_way() {
        for (path, text) in [
            ("domain/device.rs", "use crate::store::Store;"),
            ("domain/device.rs", "use tokio::sync::mpsc;"),
            ("service/devices.rs", "use crate::transport::mqtt::Hub;"),
            ("service/devices.rs", "use rusqlite::Connection;"),
            ("service/devices.rs", "const Q: &str = \"SELECT id FROM device\";"),
            ("transport/http/devices.rs", "use crate::store::Store;"),
            ("store/sqlite/mod.rs", "use crate::service::Enrol;"),
            ("elsewhere.rs", "fn f() {}"),
        ] {
            let found = errors(&format!("coordinator/src/{path}"), text);
            assert_eq!(found.len(), 1, "{path} {text}: {found:?}");
        }
    }

    #[test]
    fn unsafe_has_few_homes() {
        let text = "fn f() { unsafe { g() } }";
        for (path, count) in [
            ("agent-linux/src/os/clock.rs", 0),
            ("hil-tests/lab/src/net.rs", 0),
            ("hil-tests/lab/src/network.rs", 1),
            ("agent-linux/src/daemon.rs", 1),
        ] {
            let file = SourceFile::parse(path, text).unwrap();
            assert_eq!(homes(&file).errors.len(), count, "{path}");
        }
    }
}
