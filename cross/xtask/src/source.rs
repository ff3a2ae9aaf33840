//! Rust files as tokens and syntax, with the lines that hold code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The workspace that this binary was built from.
pub(crate) fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

/// Where Cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    let wanted = std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty());
    wanted.map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// One parsed file.
pub(crate) struct SourceFile {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    /// The whole file.
    pub(crate) tokens: TokenStream,
    /// Lines of each inline test module, first to last.
    pub(crate) tests: Vec<(usize, usize)>,
    /// Name, first line and last line of each function's body.
    pub(crate) functions: Vec<(String, usize, usize)>,
    /// Lines that hold a token; comments and doc comments do not.
    pub(crate) code: BTreeSet<usize>,
}

impl SourceFile {
    /// Parses a file's text.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{path}: does not parse: {error}");
        let tokens = TokenStream::from_str(text).map_err(|error| wrong(&error))?;
        let syntax: syn::File = syn::parse2(tokens.clone()).map_err(|error| wrong(&error))?;
        let mut collector = Collector::default();
        collector.visit_file(&syntax);
        let mut code = BTreeSet::new();
        lines_of(tokens.clone(), &mut code);
        Ok(Self {
            path: path.to_owned(),
            tokens,
            tests: collector.tests,
            functions: collector.functions,
            code,
        })
    }

    /// Whether a line lies in an inline test module.
    pub(crate) fn in_tests(&self, line: usize) -> bool {
        self.tests.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }
}

/// All Rust files below `folder` (relative to `root`), sorted.
pub(crate) fn files_below(root: &Path, folder: &str) -> Result<Vec<SourceFile>, String> {
    let mut paths = Vec::new();
    collect(&root.join(folder), &mut paths)?;
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap_or(path);
            let text = fs::read_to_string(path).map_err(|error| format!("{name:?}: {error}"))?;
            SourceFile::parse(&name.to_string_lossy().replace('\\', "/"), &text)
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    };
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let skipped = name.starts_with('.') || ["target", "node_modules"].contains(&&*name);
        if skipped {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Collector {
    tests: Vec<(usize, usize)>,
    functions: Vec<(String, usize, usize)>,
}

impl Collector {
    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.span();
        self.functions.push((name.to_string(), span.start().line, span.end().line));
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() && item.attrs.iter().any(is_test_only) {
            let span = item.span();
            self.tests.push((span.start().line, span.end().line));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// `#[cfg(test)]`, or `#[cfg(all(test, ...))]`.
fn is_test_only(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let text = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (text == "test" || text.starts_with("all(test,"))
}

fn lines_of(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let TokenTree::Punct(punct) = &token
            && punct.as_char() == '#'
            && tokens.peek().is_some_and(is_doc)
        {
            tokens.next();
            continue;
        }
        if let TokenTree::Punct(punct) = &token
            && punct.as_char() == '#'
            && tokens.peek().is_some_and(is_bang)
        {
            let bang = tokens.next();
            if tokens.peek().is_some_and(is_doc) {
                tokens.next();
                continue;
            }
            lines.extend(bang.map(|token| token.span().start().line));
        }
        match token {
            TokenTree::Group(group) => {
                lines.insert(group.span_open().start().line);
                lines.insert(group.span_close().end().line);
                lines_of(group.stream(), lines);
            }
            other => lines.extend(other.span().start().line..=other.span().end().line),
        }
    }
}

fn is_bang(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == '!')
}

fn is_doc(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else {
        return false;
    };
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket
        && matches!(first, Some(TokenTree::Ident(name)) if name == "doc")
}
