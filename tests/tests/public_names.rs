//! What the library crates declare for others: names with their signatures, public fields, variants,
//! what traits ask for, and which traits types have. A line that goes away or reads otherwise breaks
//! who uses it, and shows here; a new one breaks nobody.
//!
//! Where a new field or variant does break users, the line of its type names them all: of an
//! exhaustive enum, of a struct whose fields are all public, and of what a trait requires. An item
//! that moves to another file shows as well; where its module is private, the listing is only to be
//! written anew. With `OMNIPROF_RENEW` set this writes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{
    Attribute, Field, Fields, FnArg, ImplItem, Item, ItemEnum, ItemImpl, ItemStruct, ItemTrait,
    Pat, Signature, TraitItem, Type, UseTree, Visibility, parse_quote,
};

/// What programs that embed the profiler, plugins and readers of traces link.
const CRATES: [&str; 4] = ["profiler-core", "profiler-core/export", "worker/agent", "worker"];

const LISTING: &str = "data/public-names.txt";

/// Macros of the crates that declare public items. Their lines are what they are given.
const DECLARING: [&str; 3] = ["rows", "vendor_number", "stream_local_id"];

/// Macros that declare nothing for others.
const SILENT: [&str; 7] = [
    "as_it_is_shown",
    "capture_rows",
    "collect",
    "compile_error",
    "conformance_bodies",
    "submit",
    "thread_local",
];

/// The lines of one crate.
struct Listing {
    name: &'static str,
    lines: BTreeSet<String>,
    types: BTreeSet<String>,
    /// Implementations of traits: where, the type's name, the line. Those of private types are left
    /// out, which can be said once all types are known.
    implementations: Vec<(String, String, String)>,
}

impl Listing {
    fn of(name: &'static str, source: &Path) -> BTreeSet<String> {
        let (lines, types) = (BTreeSet::new(), BTreeSet::new());
        let mut this = Self { name, lines, types, implementations: Vec::new() };
        this.file(&source.join("lib.rs"), source, "");
        for (place, of, line) in std::mem::take(&mut this.implementations) {
            if this.types.contains(&of) {
                this.line(&place, line);
            }
        }
        this.lines
    }

    fn line(&mut self, place: &str, line: impl std::fmt::Display) {
        self.lines.insert(format!("{} {place}: {line}", self.name));
    }

    /// A file, and the folder in which its modules lie.
    fn file(&mut self, file: &Path, folder: &Path, place: &str) {
        let text = std::fs::read_to_string(file).unwrap();
        let parsed = syn::parse_file(&text);
        let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.items(&parsed.items, folder, place);
    }

    fn items(&mut self, items: &[Item], folder: &Path, place: &str) {
        for item in items {
            self.item(item, folder, place);
        }
    }

    fn item(&mut self, item: &Item, folder: &Path, place: &str) {
        match item {
            Item::Mod(module) if !is_left_out(&module.attrs) => {
                let name = module.ident.to_string();
                if is_public(&module.vis) {
                    self.line(place, format!("mod {name}"));
                }
                let inner = match place {
                    "" => name.clone(),
                    _ => format!("{place}::{name}"),
                };
                let folder_of = folder.join(&name);
                match &module.content {
                    Some((_, items)) => self.items(items, &folder_of, &inner),
                    None => {
                        let beside = folder.join(format!("{name}.rs"));
                        let within = folder_of.join("mod.rs");
                        let file = if beside.is_file() { beside } else { within };
                        self.file(&file, &folder_of, &inner);
                    }
                }
            }
            Item::Use(used) if is_seen(&used.vis, &used.attrs) => {
                for path in used_paths(&used.tree, String::new()) {
                    self.line(place, format!("use {path}"));
                }
            }
            Item::Fn(function) if is_seen(&function.vis, &function.attrs) => {
                self.line(place, signature(&function.sig));
            }
            Item::Const(constant) if is_seen(&constant.vis, &constant.attrs) => {
                let of = type_text(&constant.ty);
                self.line(place, format!("const {}: {of}", constant.ident));
            }
            Item::Static(one) if is_seen(&one.vis, &one.attrs) => {
                self.line(place, format!("static {}: {}", one.ident, type_text(&one.ty)));
            }
            Item::Type(alias) if is_seen(&alias.vis, &alias.attrs) => {
                let mut alias = alias.clone();
                alias.attrs.clear();
                alias.vis = Visibility::Inherited;
                self.line(place, item_text(Item::Type(alias)));
            }
            Item::Struct(one) if is_seen(&one.vis, &one.attrs) => self.structure(one, place),
            Item::Enum(one) if is_seen(&one.vis, &one.attrs) => self.enumeration(one, place),
            Item::Trait(one) if is_seen(&one.vis, &one.attrs) => self.trait_(one, place),
            Item::Union(one) if is_seen(&one.vis, &one.attrs) => {
                panic!("a public union: {}", one.ident)
            }
            Item::Impl(one) if !is_left_out(&one.attrs) => self.implementation(one, place),
            Item::Macro(one) if !is_left_out(&one.attrs) => {
                let name = one.mac.path.segments.last().unwrap().ident.to_string();
                if name == "macro_rules" {
                    let is_exported =
                        one.attrs.iter().any(|each| each.path().is_ident("macro_export"));
                    if let (true, Some(own)) = (is_exported, &one.ident) {
                        self.line("", format!("macro {own}!"));
                    }
                } else if DECLARING.contains(&name.as_str()) {
                    for line in declared(one.mac.tokens.clone()) {
                        self.line(place, format!("{name}! {line}"));
                    }
                } else {
                    assert!(SILENT.contains(&name.as_str()), "does `{name}!` declare anything?");
                }
            }
            _ => {}
        }
    }

    fn structure(&mut self, one: &ItemStruct, place: &str) {
        let name = one.ident.to_string();
        let mut head = one.clone();
        head.attrs.retain(|each| each.path().is_ident("repr"));
        head.vis = Visibility::Inherited;
        head.fields = Fields::Unit;
        head.semi_token = Some(Default::default());
        let head = item_text(Item::Struct(head));
        let is_open = is_non_exhaustive(&one.attrs);
        let private = one.fields.iter().any(|field| !is_public(&field.vis));
        let head = match &one.fields {
            Fields::Unnamed(fields) => {
                let fields: Vec<_> = fields.unnamed.iter().map(seen_type).collect();
                format!("{head}({})", fields.join(", "))
            }
            _ if is_open || private => format!("{head} {{ .. }}"),
            fields => {
                let names: Vec<_> = fields.iter().map(field_name).collect();
                format!("{head} {{ {} }}", names.join(", "))
            }
        };
        self.line(place, head);
        for field in &one.fields {
            if field.ident.is_some() && is_seen(&field.vis, &field.attrs) {
                let of = type_text(&field.ty);
                self.line(place, format!("struct {name}: {}: {of}", field_name(field)));
            }
        }
        self.derived(&one.attrs, &name, place);
    }

    fn enumeration(&mut self, one: &ItemEnum, place: &str) {
        let name = one.ident.to_string();
        let mut head = one.clone();
        head.attrs.retain(|each| each.path().is_ident("repr"));
        head.vis = Visibility::Inherited;
        head.variants.clear();
        let head = item_text(Item::Enum(head));
        let names: Vec<_> = one.variants.iter().map(|each| each.ident.to_string()).collect();
        let shown = if is_non_exhaustive(&one.attrs) { "..".to_owned() } else { names.join(", ") };
        self.line(place, format!("{head} {{ {shown} }}"));
        for variant in &one.variants {
            let mut variant = variant.clone();
            variant.attrs.retain(|each| each.path().is_ident("non_exhaustive"));
            for field in &mut variant.fields {
                field.attrs.clear();
            }
            let whole = item_text(parse_quote!(enum E { #variant }));
            let text = whole.trim_start_matches("enum E {").trim_end_matches('}').trim();
            let text = text.trim_end_matches(',');
            self.line(place, format!("enum {name}: {text}"));
        }
        self.derived(&one.attrs, &name, place);
    }

    /// Traits that the compiler writes for a public type.
    fn derived(&mut self, attributes: &[Attribute], name: &str, place: &str) {
        self.types.insert(name.to_owned());
        for attribute in attributes.iter().filter(|each| each.path().is_ident("derive")) {
            let derived = attribute.parse_nested_meta(|meta| {
                let last = meta.path.segments.last().unwrap().ident.to_string();
                self.line(place, format!("{name}: {last}"));
                Ok(())
            });
            derived.unwrap();
        }
    }

    fn trait_(&mut self, one: &ItemTrait, place: &str) {
        let name = one.ident.to_string();
        self.types.insert(name.clone());
        let mut head = one.clone();
        head.attrs.clear();
        head.vis = Visibility::Inherited;
        head.items.clear();
        let mut required = Vec::new();
        for item in &one.items {
            let (own, text, is_required) = match item {
                TraitItem::Fn(function) => {
                    let own = function.sig.ident.to_string();
                    (own, signature(&function.sig), function.default.is_none())
                }
                TraitItem::Const(constant) => {
                    let own = constant.ident.to_string();
                    let text = format!("const {own}: {}", type_text(&constant.ty));
                    (own, text, constant.default.is_none())
                }
                TraitItem::Type(of) => {
                    let own = of.ident.to_string();
                    (own.clone(), format!("type {own}"), of.default.is_none())
                }
                _ => panic!("an item of {name} that is not known"),
            };
            if is_required {
                required.push(own);
            }
            self.line(place, format!("trait {name}: {text}"));
        }
        let head = item_text(Item::Trait(head));
        self.line(place, format!("{head} {{ {} }}", required.join(", ")));
    }

    fn implementation(&mut self, one: &ItemImpl, place: &str) {
        let mut head = one.clone();
        head.attrs.clear();
        head.items.clear();
        let head = item_text(Item::Impl(head));
        if one.trait_.is_some() {
            let of = match &*one.self_ty {
                Type::Path(path) => path.path.segments.last().unwrap().ident.to_string(),
                _ => return,
            };
            self.implementations.push((place.to_owned(), of, head));
            return;
        }
        for item in &one.items {
            match item {
                ImplItem::Fn(function) if is_seen(&function.vis, &function.attrs) => {
                    self.line(place, format!("{head}: {}", signature(&function.sig)));
                }
                ImplItem::Const(constant) if is_seen(&constant.vis, &constant.attrs) => {
                    let of = type_text(&constant.ty);
                    self.line(place, format!("{head}: const {}: {of}", constant.ident));
                }
                _ => {}
            }
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_seen(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    is_public(visibility) && !is_left_out(attributes)
}

/// What is built for tests alone, and what is public for our own crates.
fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Ok(list) = attribute.meta.require_list() else { return false };
        let word = list.tokens.to_string();
        (list.path.is_ident("cfg") && word == "test")
            || (list.path.is_ident("doc") && word == "hidden")
    })
}

fn is_non_exhaustive(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("non_exhaustive"))
}

fn field_name(field: &Field) -> String {
    field.ident.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The type of a field without a name, as far as others see it.
fn seen_type(field: &Field) -> String {
    if is_public(&field.vis) { type_text(&field.ty) } else { "_".to_owned() }
}

fn used_paths(tree: &UseTree, before: String) -> Vec<String> {
    match tree {
        UseTree::Path(path) => used_paths(&path.tree, format!("{before}{}::", path.ident)),
        UseTree::Name(name) => vec![format!("{before}{}", name.ident)],
        UseTree::Rename(name) => vec![format!("{before}{} as {}", name.ident, name.rename)],
        UseTree::Glob(_) => vec![format!("{before}*")],
        UseTree::Group(group) => {
            group.items.iter().flat_map(|tree| used_paths(tree, before.clone())).collect()
        }
    }
}

fn signature(signature: &Signature) -> String {
    let mut bare = signature.clone();
    for input in &mut bare.inputs {
        match input {
            FnArg::Receiver(one) => {
                one.attrs.clear();
                // Whether the body changes what it was given is its own affair.
                one.mutability = one.mutability.filter(|_| one.reference.is_some());
            }
            FnArg::Typed(one) => {
                one.attrs.clear();
                if let Pat::Ident(name) = &mut *one.pat {
                    name.mutability = None;
                }
            }
        }
    }
    item_text(parse_quote!(#bare {}))
}

fn type_text(of: &Type) -> String {
    let text = item_text(parse_quote!(type T = #of;));
    text.trim_start_matches("type T =").trim().to_owned()
}

/// An item that is written as rustfmt writes it, on one line, without the end that says nothing.
fn item_text(item: Item) -> String {
    let file = syn::File { shebang: None, attrs: Vec::new(), items: vec![item] };
    let text = prettyplease::unparse(&file);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.replace("( ", "(").replace(", )", ")").replace(",>", ">").replace("< ", "<");
    let line = line.trim_end_matches("{}").trim_end_matches(';');
    line.trim_end().trim_end_matches(',').to_owned()
}

/// What a macro is given: each of its items, and of an item with a body each part of that.
fn declared(tokens: TokenStream) -> Vec<String> {
    let mut lines = Vec::new();
    let mut head = Vec::new();
    for token in without_attributes(tokens) {
        match &token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let name = plain(&head);
                head.clear();
                let parts = parts(group.stream());
                lines.extend(parts.iter().map(|part| format!("{name}: {part}")));
                lines.push(name);
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => {
                lines.push(plain(&head));
                head.clear();
            }
            _ => head.push(token),
        }
    }
    if !head.is_empty() {
        lines.push(plain(&head));
    }
    lines
}

/// What semicolons part; commas, where there is none.
fn parts(tokens: TokenStream) -> Vec<String> {
    let tokens = without_attributes(tokens);
    let is = |token: &TokenTree, mark| matches!(token, TokenTree::Punct(p) if p.as_char() == mark);
    let mark = if tokens.iter().any(|token| is(token, ';')) { ';' } else { ',' };
    let parts = tokens.split(|token| is(token, mark));
    parts.filter(|part| !part.is_empty()).map(plain).collect()
}

fn without_attributes(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => drop(tokens.next()),
            _ => kept.push(token),
        }
    }
    kept
}

fn plain(tokens: &[TokenTree]) -> String {
    let text = tokens.iter().cloned().collect::<TokenStream>().to_string();
    text.replace(" :", ":").replace(" ,", ",").replace(" < ", "<").replace(" >", ">")
}

fn all() -> BTreeSet<String> {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    CRATES.into_iter().flat_map(|name| Listing::of(name, &root.join(name).join("src"))).collect()
}

#[test]
fn public_items_stay() {
    let lines = all();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(LISTING);
    if std::env::var_os("OMNIPROF_RENEW").is_some() {
        let text: Vec<_> = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&kept, text.concat()).unwrap();
    }
    let kept = std::fs::read_to_string(&kept).unwrap();
    assert!(kept.lines().count() > 2000, "the listing is whole");
    let gone: Vec<_> = kept.lines().filter(|line| !lines.contains(*line)).collect();
    assert!(
        gone.is_empty(),
        "these public items are gone or read otherwise, which breaks who uses them; if that is \
         meant, say so in CHANGELOG.md and renew {LISTING} (OMNIPROF_RENEW=1): {gone:#?}"
    );
}

#[test]
fn each_kind_of_item_has_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        pub mod inner { pub fn free<T: Into<u32>>(one: &T, two: &[u8]) -> Result<(), String> { todo!() } }
        #[cfg(test)] mod tests { pub fn unseen() {} }
        #[doc(hidden)] pub fn hidden() {}
        pub(crate) fn private() {}
        pub use inner::{free, free as other};
        #[derive(Clone, Debug)] #[non_exhaustive]
        pub struct Open { /// Told.
            pub a: Vec<u8>, b: u32 }
        pub struct Closed { pub a: u8, pub b: u16 }
        pub struct Id(pub u32, u8);
        #[non_exhaustive] pub enum Grows { One, Two { a: u8 } }
        #[repr(u8)] pub enum Stays { One = 1, Two(u32) }
        pub trait Asks: Send { const A: u8; fn must(&self); fn may(&self) -> u8 { 1 } }
        impl Open { pub const C: u32 = 1; pub async fn call(&mut self, x: impl Fn(u8)) {} pub fn build(mut self) -> Self { self } fn no(&self) {} }
        impl std::fmt::Display for Open { fn fmt(&self) {} }
        struct Private;
        impl Clone for Private { fn clone(&self) -> Self { todo!() } }
        rows! { const ALL; /** Told. */ Kernel = 1, "kernel" { start: u64 = Time, end: u64 = End, } }
        vendor_number! { Cause: u16 { Full = 1, "full"; Gone = 2, "gone"; } }
        #[macro_export] macro_rules! exported { () => {} }
    "#;
    std::fs::write(folder.path().join("lib.rs"), text).unwrap();
    let lines = Listing::of("x", folder.path());
    insta::assert_snapshot!(lines.into_iter().collect::<Vec<_>>().join("\n"));
}
