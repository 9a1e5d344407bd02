"""The table of units: symbols, names, money, and what one of each is in base units. docs/units.md shows it.

A row is `spelling spelling ...: definition`. A definition is a number, base units or units of earlier rows with powers,
and `pi` for a factor of pi. In a spelling, `_` stands for a space. A row without a definition is a base unit, whose
name is its first spelling. Names of words are matched in any case and with a plural `s`; symbols exactly.
"""

from __future__ import annotations

from rethink.grading.formulas.spelling import word_set

PREFIXES = {"n": -9, "μ": -6, "m": -3, "c": -2, "d": -1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12}
PREFIX_NAMES = {
    **{"nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1},
    **{"hecto": 2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12},
}
RARE_PREFIXES = {"c": "m L l", "d": "m L l", "h": "Pa"}
"""These prefixes are used with these symbols only."""

BASE = word_set("m kg s A K mol cd rad turn bit lm sr year unit dB °C °F % point")
"""Base units; others are the rows without a definition."""

NOT_ALONE = ("B",)
"""Symbols that are units with a prefix only: 9 B is nine billion as often as nine bytes."""

SIUNITX = {"degreeCelsius": "°C", "celsius": "°C", "percent": "%"}
"""Commands of siunitx whose names are not in the table of names."""

WITH_PREFIX = """
    m: m
    g: 1/1000 kg
    s: s
    A: A
    K: K
    mol: mol
    cd: cd
    Hz: turn s^-1
    N: kg m s^-2
    Pa: kg m^-1 s^-2
    J: kg m^2 s^-2
    W: kg m^2 s^-3
    C: A s
    V: kg m^2 s^-3 A^-1
    F: kg^-1 m^-2 s^4 A^2
    Ω: kg m^2 s^-3 A^-2
    S: kg^-1 m^-2 s^3 A^2
    Wb: kg m^2 s^-2 A^-1
    T: kg s^-2 A^-1
    H: kg m^2 s^-2 A^-2
    L l: 1/1000 m^3
    eV: 1.602176634e-19 J
    Wh: 3600 J
    cal: 4.184 J
    bar: 100000 Pa
    bit: bit
    B: 8 bit
    pc: 3.0856775814913673e16 m
    Bq: s^-1
    Sv: m^2 s^-2
    lm: lm
    lx: lm m^-2
    rad: rad
    yr: year
"""
"""Symbols that take prefixes."""

NAMES_WITH_PREFIX = """
    meter metre: m
    gram gramme: g
    kilo: kg
    second: s
    ampere amp: A
    kelvin: K
    mole: mol
    candela: cd
    hertz: Hz
    newton: N
    pascal: Pa
    joule: J
    watt: W
    coulomb: C
    volt: V
    farad: F
    ohm: Ω
    siemens: S
    weber: Wb
    tesla: T
    henry henries: H
    liter litre: L
    electronvolt electron_volt: eV
    watt_hour watt-hour: Wh
    calorie: cal
    parsec: pc
    bit: bit
    byte: 8 bit
    lumen: lm
    lux: lx
    radian: rad
"""

SYMBOLS = """
    h: 3600 s
    hr hrs: 3600 s
    min mins: 60 s
    sec secs: s
    cc: 1/1000000 m^3
    kph kmph km/hr: 1000/3600 m s^-1
    Kg KG kgs Kgs: kg
    Km KM kms Kms: 1000 m
    cms: 0.01 m
    gm gms: g
    kw KW: 1000 W
    kwh KWh Kwh: 3600000 J
    bps: bit s^-1
    kbps: 1000 bit s^-1
    Mbps: 1000000 bit s^-1
    KB: 8000 bit
    um: 1/1000000 m
    us: 1/1000000 s
    ug mcg: 1/1000000 g
    rev revs: turn
    Nm: N m
    pt pts: point
    mpg: 1609.344/0.003785411784 m^-2
    ft ft.: 0.3048 m
    in in.: 0.0254 m
    yd yds yd.: 0.9144 m
    mi mi.: 1609.344 m
    nmi: 1852 m
    mph: 0.44704 m s^-1
    Å: 1/10000000000 m
    AU au: 149597870700 m
    ly: 9460730472580800 m
    ha: 10000 m^2
    lb lbs lb. lbs.: 0.45359237 kg
    oz oz.: 0.028349523125 kg
    amu Da: 1.66053906892e-27 kg
    t: 1000 kg
    lbf: 4.4482216152605 N
    dyn: 1/100000 N
    erg ergs: 1/10000000 J
    psi: 4.4482216152605/0.00064516 Pa
    atm: 101325 Pa
    mmHg torr Torr: 101325/760 Pa
    Cal: 4184 J
    ft-lb ft-lbs ft·lb ft_lb lb-ft foot-pound foot-pounds: 1.3558179483314004 J
    hp: 745.6998715822702 W
    rpm RPM: 1/60 turn s^-1
    gal gal.: 3.785411784 L
    qt qt.: 0.946352946 L
    pt.: 0.473176473 L
    fl_oz fl._oz.: 0.0295735295625 L
    tsp tsp.: 0.00492892159375 L
    tbsp tbsp.: 0.01478676478125 L
    Gs gauss: 1/10000 T
    deg °: 1/180 pi rad
    ′ arcmin: 1/10800 pi rad
    ″ arcsec: 1/648000 pi rad
    sr: sr
    dB
    °C ℃
    °F ℉
    % percent per_cent per_cents pct: 1/100 %
    ‰: 1/1000 %
    ppm: 1/1000000 %
    p.m. p.m pm PM P.M.
    a.m. a.m am AM A.M.
    o'clock
"""

NAMES = """
    minute: 60 s
    hour: 3600 s
    day: 86400 s
    week: 604800 s
    fortnight: 1209600 s
    month mo mos: 1/12 year
    decade: 10 year
    century centuries: 100 year
    light-year light_year lightyear: 9460730472580800 m
    astronomical_unit: 149597870700 m
    angstrom ångström: 1/10000000000 m
    micron: 1/1000000 m
    inch inches: 0.0254 m
    foot feet: 0.3048 m
    yard: 0.9144 m
    mile: 1609.344 m
    nautical_mile: 1852 m
    knot: 1852/3600 m s^-1
    acre: 4046.8564224 m^2
    hectare: 10000 m^2
    pound: 0.45359237 kg
    ounce: 0.028349523125 kg
    tonne metric_ton: 1000 kg
    ton: 907.18474 kg
    gallon us_gallon u.s._gallon: 3.785411784 L
    quart: 0.946352946 L
    pint: 0.473176473 L
    fluid_ounce: 0.0295735295625 L
    teaspoon: 0.00492892159375 L
    tablespoon: 0.01478676478125 L
    horsepower: 745.6998715822702 W
    atmosphere: 101325 Pa
    degree: 1/180 pi rad
    arcminute arc_minute: 1/10800 pi rad
    arcsecond arc_second: 1/648000 pi rad
    steradian: sr
    decibel: dB
    degree_celsius degree_c celsius degree_centigrade: °C
    degree_fahrenheit degree_f fahrenheit: °F
    revolution rotation turn cycle: turn
    rpm revolutions_per_minute: 1/60 turn s^-1
    unit
    point: point
"""

MONEY = """
    $ USD US$ $US dollar us_dollar u.s._dollar american_dollar bucks usd
    ¢ cent: 1/100 $
    penny pennies: 1/100 $
    € EUR euro eur euro(s)
    £ GBP pound_sterling pounds_sterling british_pound gbp
    pence: 1/100 £
    ¥
    JPY 円 yen jpy japanese_yen
    CNY RMB 元 yuan 人民币 块 块钱 元钱 rmb cny
    角: 1/10 CNY
    ₹ INR Rs Rs. rupee rs inr
    paise paisa: 1/100 ₹
    ₩ KRW 원 won
    ₽ RUB ruble rouble руб руб. рублей рубля рубль
    ₺ TRY lira liras
    ₦ NGN naira
    ₱ PHP
    ₫ VND dong
    ₪ ILS shekel
    ฿ THB baht
    kr kr. kroner kronor SEK NOK DKK
    zł PLN złoty
    R$ BRL
    HK$ HKD
    CHF franc swiss_franc
    CAD C$ canadian_dollar
    AUD A$ australian_dollar
    MXN peso
"""

FOREIGN = """
    米 公尺 метр метра метров м mètre mètres metro metros: m
    厘米 公分 см: 0.01 m
    分米: 0.1 m
    毫米 мм: 0.001 m
    千米 公里 км kilomètre kilomètres kilómetro kilómetros: 1000 m
    平方米 平方公尺: m^2
    平方厘米: 0.0001 m^2
    平方分米: 0.01 m^2
    公顷: 10000 m^2
    立方分米: 0.001 m^3
    平方千米 平方公里: 1000000 m^2
    立方米: m^3
    立方厘米: 0.000001 m^3
    升 л: L
    毫升 мл: 0.001 L
    克 г: g
    千克 公斤 кг: kg
    斤: 0.5 kg
    吨: 1000 kg
    秒 秒钟: s
    分钟 мин минут: 60 s
    小时 个小时 時間 시간 ч часов часа час heure heures hora horas Stunde Stunden: 3600 s
    天 日 дней день дня jour jours Tag Tage Tagen día días: 86400 s
    周 星期 个星期: 604800 s
    个月 月: month
    年 岁: year
    度 градусов grado grados Grad degré degrés: 1/180 pi rad
    弧度: rad
    摄氏度: °C
    华氏度: °F
    平方单位: unit^2
    立方单位: unit^3
    单位 个单位: unit
    米/秒 м/с: m s^-1
    千米/时 公里/小时 km/小时 км/ч: 1000/3600 m s^-1
    牛 牛顿: N
    焦 焦耳: J
    瓦 瓦特: W
"""

COUNTERS = word_set(
    "个 個 只 隻 本 张 張 支 条 條 名 位 人 头 頭 匹 件 块 颗 顆 粒 根 辆 輛 棵 朵 瓶 杯 盒 "
    "箱 包 袋 次 种 種 组 組 页 頁 层 層 所 家 台 枚 束 排 行 列 套 场 節 节 课 步 票 篇 道 "
    "题 題 段 片 份 把 座 面 口 枝 株 艘 架 扇 幅 棟 栋 개 명 마리 권 장 대 가지 번 штук шт шт. человек"
)
"""Classifiers that stand between a number and what is counted; they and what follows change no value."""

CHANGING_SIGNS = frozenset(
    "零一二三四五六七八九十百千万萬亿億兆两兩半倍分折成双雙对對打余餘多少负負约約近几幾以超不非或和与與及"
    "且加减減乘除幂冪方根模余进進阶階倒数數至到上下左右比"
)
"""Chinese and Japanese characters that may change a value; behind a classifier they make the text no unit."""

CURRENCY_SIGNS = ("$", "€", "£", "¥", "₹", "₩", "₽", "₺", "₦", "₱", "₫", "₪", "฿")
BEFORE_NUMBERS = word_set("$ USD US$ € EUR £ GBP ¥ JPY CNY RMB ₹ INR Rs Rs. ₩ KRW ₽ RUB CHF CAD C$ AUD A$")
"""What may stand in front of an amount of money."""
