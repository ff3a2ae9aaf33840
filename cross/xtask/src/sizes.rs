//! Length limits: the place where everything meets must not grow.
//!
//! A line counts if it holds a token; comments, documentation and blank lines
//! do not. Inline test modules are counted for themselves.

use std::path::Path;

use crate::report::Report;
use crate::source::{SourceFile, files_below};

const FUNCTION: usize = 80;
const FILE_AIM: usize = 500;
const FILE_STOP: usize = 800;
const INLINE_TESTS: usize = 200;

/// Files that may only wire and forward, with their budgets.
const WIRING: &[(&str, usize)] = &[
    ("agent-core/src/agent.rs", 380),
    ("agent-linux/src/daemon/mod.rs", 280),
    ("coordinator/src/app/mod.rs", 220),
];

/// Checks every Rust file of the workspace.
pub(crate) fn check(root: &Path) -> Report {
    let mut report = Report::default();
    match files_below(root, "") {
        Ok(files) => {
            files.iter().for_each(|file| report.merge(check_file(file)));
            let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            report.errors.extend(missing_wiring(&paths));
        }
        Err(error) => report.errors.push(error),
    }
    report
}

/// A budget for a file that moved away would hold nothing back.
fn missing_wiring(paths: &[&str]) -> Vec<String> {
    let missing = WIRING.iter().filter(|(wiring, _)| !paths.contains(wiring));
    missing.map(|(wiring, _)| format!("{wiring}: this wiring file does not exist")).collect()
}

fn check_file(file: &SourceFile) -> Report {
    let mut report = Report { examined: file.functions.len(), ..Report::default() };
    let path = &file.path;
    for (name, first, last) in &file.functions {
        let lines = file.code.range(first + 1..*last.max(&(first + 1))).count();
        if lines > FUNCTION {
            report.errors.push(format!(
                "{path}:{first}: function {name} has {lines} lines, at most {FUNCTION}"
            ));
        }
    }
    for (first, last) in &file.tests {
        let lines = file.code.range(first..=last).count();
        if lines > INLINE_TESTS {
            report.errors.push(format!(
                "{path}:{first}: {lines} lines of inline tests, at most {INLINE_TESTS}; move them to tests/"
            ));
        }
    }
    let lines = file.code.iter().filter(|line| !file.in_tests(**line)).count();
    if lines > FILE_STOP {
        report.errors.push(format!("{path}: {lines} lines of code, at most {FILE_STOP}"));
    } else if lines > FILE_AIM {
        report.warnings.push(format!("{path}: {lines} lines of code, the aim is {FILE_AIM}"));
    }
    if let Some((_, budget)) = WIRING.iter().find(|(wiring, _)| wiring == path) {
        report.notes.push(format!("wiring  {path}  {lines} of {budget} lines"));
        if lines > *budget {
            report
                .errors
                .push(format!("{path}: {lines} lines, the budget of this wiring file is {budget}"));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::workspace_root;

    #[test]
    fn the_tree_keeps_its_sizes() {
        let report = check(&workspace_root());
        assert!(report.examined > 50, "examined {}", report.examined);
        assert_eq!(report.errors, Vec::<String>::new());
    }

    fn errors(path: &str, text: &str) -> Vec<String> {
        check_file(&SourceFile::parse(path, text).unwrap()).errors
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    call();\n".repeat(lines))
    }

    #[test]
    fn a_long_function_is_an_error() {
        assert_eq!(errors("a.rs", &function(FUNCTION)), Vec::<String>::new());
        let found = errors("a.rs", &function(FUNCTION + 1));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("function long has 81 lines"), "{found:?}");
    }

    #[test]
    fn comments_and_documentation_do_not_count() {
        let body = "    // why\n    /* and\n how */\n\n    call();\n".repeat(FUNCTION);
        let text = format!("//! head\n/// doc\nfn long() {{\n{body}}}\n");
        assert_eq!(errors("a.rs", &text), Vec::<String>::new());
        let file = SourceFile::parse("a.rs", &text).unwrap();
        assert_eq!(file.code.len(), FUNCTION + 2);
    }

    #[test]
    fn long_inline_tests_and_files_are_errors() {
        let tests =
            format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "use super::*;\n".repeat(INLINE_TESTS));
        let found = errors("a.rs", &tests);
        assert!(found[0].contains("inline tests"), "{found:?}");
        let found = errors("a.rs", &"const A: u8 = 0;\n".repeat(FILE_STOP + 1));
        assert!(found[0].contains("801 lines of code"), "{found:?}");
        let found = errors("coordinator/src/app/mod.rs", &"const A: u8 = 0;\n".repeat(221));
        assert!(found[0].contains("budget"), "{found:?}");
    }

    #[test]
    fn a_budget_of_a_file_that_moved_is_an_error() {
        let all: Vec<&str> = WIRING.iter().map(|(path, _)| *path).collect();
        assert_eq!(missing_wiring(&all), Vec::<String>::new());
        let found = missing_wiring(&all[1..]);
        assert_eq!(found, [format!("{}: this wiring file does not exist", all[0])]);
    }

    #[test]
    fn a_method_in_a_macro_free_impl_is_seen() {
        let text = format!("impl A {{\n{}}}\n", function(FUNCTION + 1));
        assert_eq!(errors("a.rs", &text).len(), 1);
    }
}
