// The commands of LaTeX that stand for one sign, by kind.

const pairs = (text) =>
  text
    .trim()
    .split(/\s+/)
    .map((pair) => pair.split("="))
    .map(([name, sign]) => [`\\${name}`, sign]);

export const SYMBOLS = new Map(
  pairs(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ nu=ν
  xi=ξ pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ
  Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω ell=ℓ hbar=ℏ Re=ℜ Im=ℑ aleph=ℵ wp=℘ partial=∂ nabla=∇
  infty=∞ emptyset=∅ varnothing=∅ forall=∀ exists=∃ nexists=∄ neg=¬ lnot=¬ top=⊤ bot=⊥ angle=∠ degree=° prime=′ dagger=†
  times=× div=÷ cdot=⋅ ast=∗ star=⋆ circ=∘ bullet=∙ pm=± mp=∓ oplus=⊕ otimes=⊗ odot=⊙ cup=∪ cap=∩ setminus=∖ wedge=∧
  land=∧ vee=∨ lor=∨ sqcup=⊔ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ll=≪ gg=≫ ne=≠ neq=≠ equiv=≡ approx=≈ sim=∼
  simeq=≃ cong=≅ propto=∝ prec=≺ succ=≻ in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ supset=⊃ supseteq=⊇ mid=∣ nmid=∤
  parallel=∥ perp=⊥ vdash=⊢ models=⊨ to=→ rightarrow=→ longrightarrow=⟶ leftarrow=← gets=← Rightarrow=⇒ implies=⟹
  Longrightarrow=⟹ Leftarrow=⇐ iff=⟺ Leftrightarrow=⇔ leftrightarrow=↔ mapsto=↦ uparrow=↑ downarrow=↓ hookrightarrow=↪
  ldots=… dots=… cdots=⋯ vdots=⋮ ddots=⋱ dotsc=… dotsb=⋯ therefore=∴ because=∵ square=□ blacksquare=■ checkmark=✓
  triangle=△ diamond=⋄ colon=: vert=| Vert=‖ backslash=\\ %=% $=$ #=# &=& _=_
  sum=∑ prod=∏ coprod=∐ int=∫ iint=∬ iiint=∭ oint=∮ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀`),
);

export const FUNCTIONS = new Set(
  "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr sec sin sinh sup tan tanh argmax argmin mod bmod"
    .split(" ")
    .map((name) => `\\${name}`),
);

/** Scripts go below and above these in displayed formulas. */
export const LARGE = new Set(
  "sum prod coprod bigcup bigcap bigoplus bigotimes bigvee bigwedge overbrace underbrace lim liminf limsup max min sup inf det gcd Pr argmax argmin"
    .split(" ")
    .map((name) => `\\${name}`),
);

export const SPACES = {
  "\\,": "0.167em",
  "\\:": "0.222em",
  "\\>": "0.222em",
  "\\;": "0.278em",
  "\\!": "-0.167em",
  "\\ ": "0.333em",
  "\\quad": "1em",
  "\\qquad": "2em",
};

/** The sign, and whether it stands below. */
export const ACCENTS = {
  "\\hat": ["^"],
  "\\widehat": ["^"],
  "\\bar": ["¯"],
  "\\overline": ["¯"],
  "\\vec": ["→"],
  "\\overrightarrow": ["→"],
  "\\tilde": ["~"],
  "\\widetilde": ["~"],
  "\\dot": ["˙"],
  "\\ddot": ["¨"],
  "\\overbrace": ["⏞"],
  "\\underbrace": ["⏟", true],
  "\\underline": ["_", true],
};

/** Where the letters of an alphabet begin in Unicode. */
export const STYLES = {
  "\\mathbb": {
    upper: 0x1d538,
    lower: 0x1d552,
    digit: 0x1d7d8,
    other: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  },
  "\\mathbf": { upper: 0x1d400, lower: 0x1d41a, digit: 0x1d7ce },
  "\\boldsymbol": { upper: 0x1d468, lower: 0x1d482, digit: 0x1d7ce },
  "\\bm": { upper: 0x1d468, lower: 0x1d482, digit: 0x1d7ce },
  "\\mathcal": {
    upper: 0x1d49c,
    lower: 0x1d4b6,
    other: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  },
  "\\mathscr": {
    upper: 0x1d49c,
    lower: 0x1d4b6,
    other: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  },
  "\\mathfrak": { upper: 0x1d504, lower: 0x1d51e, other: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" } },
  "\\mathrm": { upper: 0, lower: 0, digit: 0 },
  "\\mathit": { upper: 0, lower: 0, digit: 0 },
  "\\mathsf": { upper: 0x1d5a0, lower: 0x1d5ba, digit: 0x1d7e2 },
  "\\mathtt": { upper: 0x1d670, lower: 0x1d68a, digit: 0x1d7f6 },
};
